"""Samples, first with every step computed, then by each setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from ..benchmark.machine import stopwatch
from ..config import CacheConfig
from ..runtime.stats import ContextStats, speedup
from .likeness import Likeness, likeness, mean
from .media import Media
from .source import OnStep, Source

PLAIN = "plain"


@dataclass(frozen=True)
class Candidate:
    """A setting and the models that have it, in the places of the source's denoisers.

    name: as it was asked for. config: None of the plain one.
    """

    name: str
    models: Mapping[str, nn.Module]
    config: CacheConfig | None = None


@dataclass(frozen=True)
class Drawn:
    """A candidate's samples. seconds: that all of them took. contexts: of the last sample of each denoiser.

    each: how alike each sample is to the plain one. first_seconds: what the drawing before took, which
    captures and compiles.
    """

    candidate: Candidate
    media: Sequence[Media]
    seconds: float
    first_seconds: float
    contexts: Mapping[str, ContextStats]
    each: Sequence[Likeness]

    @property
    def name(self) -> str:
        return self.candidate.name

    @property
    def likeness(self) -> Likeness:
        return mean(self.each)

    @property
    def speedup(self) -> float:
        """Times fewer FLOPs, or fewer computed steps where FLOPs are not known; 1 without a cache."""
        return speedup(self.contexts.values()) if self.contexts else 1.0


class Watcher(Protocol):
    """Is told what is drawn now, and of each step."""

    def begin(self, text: str) -> None: ...

    def step(self) -> None: ...


def drawings(candidates: int) -> int:
    """How many times a source is drawn from for so many candidates."""
    return 2 * (candidates + 1)


def run(source: Source, candidates: Sequence[Candidate], watcher: Watcher) -> tuple[Drawn, list[Drawn]]:
    """The plain samples, and those of each candidate.

    Everything is drawn twice, and the second time is measured: the first one captures, compiles and warms up.

    Raises what drawing raises.
    """
    plain = _drawn(source, Candidate(PLAIN, source.denoisers), None, watcher)
    return plain, [_drawn(source, candidate, plain, watcher) for candidate in candidates]


def _drawn(source: Source, candidate: Candidate, plain: Drawn | None, watcher: Watcher) -> Drawn:
    source.use(candidate.models)
    try:
        watcher.begin(f"{candidate.name}: first run")
        _, first_seconds = _timed(source, watcher.step)
        watcher.begin(candidate.name)
        media, seconds = _timed(source, watcher.step)
    finally:
        source.use(source.denoisers)
    each = (
        [likeness(before, after) for before, after in zip(plain.media, media, strict=True)] if plain else []
    )
    contexts = {} if plain is None else _contexts(candidate.models)
    return Drawn(candidate, media, seconds, first_seconds, contexts, each)


def _timed(source: Source, on_step: OnStep) -> tuple[list[Media], float]:
    clock, _ = stopwatch(source.device)
    wait: Callable[[], object] = torch.cuda.synchronize if source.device.type == "cuda" else lambda: None
    wait()
    begin = clock()
    media = source.draw(on_step)
    wait()
    return media, clock() - begin


def _contexts(models: Mapping[str, Any]) -> dict[str, ContextStats]:
    """By the context's name, before which stands the denoiser's where there are several."""
    found = {name: model.stats().contexts for name, model in models.items()}
    several = len(found) > 1
    return {
        f"{name}/{context}" if several else context: stats
        for name, contexts in found.items()
        for context, stats in contexts.items()
    }
