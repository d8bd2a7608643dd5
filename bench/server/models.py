"""What all threads share: one set of weights, behind caches or not."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Any

from torch import nn

import fxcache
from fxcache import CachedTransformer, embedded

from .requests import PLAN, THRESHOLD, Request

FIRST = {THRESHOLD: "F1B0_W2M0MC3_T1O1_R0.2", PLAN: "P6K4"}


class PlainModels:
    """The model without a cache, in the place of `CachedModels`."""

    def __init__(self) -> None:
        self._model = embedded.load_transformer()

    def of(self, request: Request) -> nn.Module:
        """What draws the request."""
        return self._model

    def context(self, request: Request, name: str) -> AbstractContextManager[None]:
        """Around the calls that are the request's."""
        return contextlib.nullcontext()

    def forget(self, request: Request, name: str) -> None:
        """The request is over, or was cancelled."""


class CachedModels(PlainModels):
    """A cached model for each kind of settings, which are state; captured when first called."""

    def __init__(self) -> None:
        model = embedded.load_transformer()
        self.cached = {kind: fxcache.transform(model, setting) for kind, setting in FIRST.items()}

    def of(self, request: Request) -> CachedTransformer:
        return self.cached[request.kind]

    def context(self, request: Request, name: str) -> AbstractContextManager[None]:
        return self.of(request).cache_context(name, request.setting)

    def forget(self, request: Request, name: str) -> None:
        self.of(request).reset(name)

    def reset(self) -> None:
        """Forget every request."""
        for cached in self.cached.values():
            cached.reset()

    def state_bytes(self) -> int:
        """Held by all contexts of all threads."""
        return sum(cached.stats().state_bytes for cached in self.cached.values())

    def captures(self) -> int:
        """Graphs that were captured."""
        return sum(len(cached.specializations()) for cached in self.cached.values())


def pipeline(model: nn.Module) -> Any:
    """diffusers' FluxPipeline of one thread: its scheduler holds the run under way."""
    return embedded.load_pipeline(model)
