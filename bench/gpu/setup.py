"""Where everything runs, and how large."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fxcache.backends.inductor import MODES, Mode


@dataclass(frozen=True)
class Setup:
    """device: of models and inputs. quick: small models, few settings and rounds.

    backend: of `torch.compile`. "eager" generates no code: Dynamo's graphs run as they are.
    """

    device: torch.device
    quick: bool
    backend: str | Callable[..., Any]

    @property
    def small(self) -> bool:
        """Whether models are so small that a processor runs them."""
        return self.quick or self.device.type == "cpu"

    @property
    def modes(self) -> tuple[Mode, ...]:
        """Those of `fxcache.compile`."""
        return MODES

    def may_refuse(self, mode: Mode) -> bool:
        """Whether this device has not what the mode needs: an error that says so is no failure then."""
        return mode == "reduce-overhead" and self.device.type != "cuda"
