"""CUDA graphs: recorded once for each trajectory's states and ways, replayed from then on."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._dynamo.utils import counters

import fxcache
from fxcache import CachedTransformer
from fxcache.backends.cudagraph_state_pool import with_pooled_state
from fxcache.backends.host.dispatch import Runner
from fxcache.ir.program import Program

from .modes import COMPILING, compile_in
from .rows import Cells, Check, CheckFailed
from .settings import SETTINGS, STEPS, Setting
from .setup import Setup
from .subjects import Subject, short
from .trajectories import Run, require_alike, run

SETTLED = 3  # trajectories: torch warms up, records, and may record what followed what it warmed up
REPLAYED = 2


def cuda_graphs(setup: Setup) -> Iterator[Check]:
    """State at its address; with CUDA, recordings and replays counted."""
    subject = short(setup)
    yield Check("state keeps its address, eager", lambda: addresses_kept(subject))
    for setting in SETTINGS[:2]:
        yield Check(f"{setting.name}, recorded", _recorded(setup, subject, setting), COMPILING)


def addresses_kept(subject: Subject) -> Cells:
    """Over the states that graphs are recorded with, nothing compiled: bitwise the same, and in one place."""
    eager = fxcache.transform(subject.model, SETTINGS[0].config())
    pooled = eager.lowered(_pooled)
    expected, places = run(eager, subject), []
    for _ in range(2):
        found = run(pooled, subject)
        places.append(_addresses(pooled))
        if found.hits != expected.hits or not all(map(torch.equal, found.outputs, expected.outputs)):
            raise CheckFailed("not bitwise eager")
    if places[0] != places[1]:
        raise CheckFailed("the state moved between trajectories")
    return {"hits": expected.cached, "tensors of state": len(places[0])}


def _pooled(program: Program) -> Runner:
    assert program.graph is not None
    return with_pooled_state(program.graph.forward, len(program.capture.inputs))


def _addresses(model: CachedTransformer) -> dict[str, int]:
    return {name: t.data_ptr() for name, t in model._contexts.last_state().state.items()}


def _recorded(setup: Setup, subject: Subject, setting: Setting) -> Callable[[], Cells]:
    def check() -> Cells:
        eager = fxcache.transform(subject.model, setting.config())
        model = compile_in(setup, fxcache.transform(subject.model, setting.config()), "reduce-overhead")
        return replays(model, run(eager, subject), subject)

    return check


def replays(model: CachedTransformer, expected: Run, subject: Subject) -> Cells:
    """Trajectories like `expected`; the last ones record nothing and replay in every step."""
    skipped = counters["inductor"]["cudagraph_skips"]
    seen: list[Counter[str]] = []
    places = []
    error = 0.0
    for number in range(SETTLED + REPLAYED):
        with counted(torch.cuda.CUDAGraph, "capture_begin", "replay") as calls:
            found = run(model, subject)
        error = max(error, require_alike(found, expected, subject.dtype, f"trajectory {number + 1}"))
        seen.append(calls)
        places.append(_addresses(model))
    cells: Cells = {
        "recorded": ", ".join(str(c["capture_begin"]) for c in seen),
        "replayed": ", ".join(str(c["replay"]) for c in seen),
        "hits": expected.cached,
        "error": error,
    }
    last = seen[SETTLED:]
    if any(c["replay"] < STEPS for c in last):
        raise CheckFailed(f"fewer replays than the {STEPS} steps of a trajectory", cells)
    if any(c["capture_begin"] for c in last):
        raise CheckFailed("still recording when it should only replay", cells)
    if counters["inductor"]["cudagraph_skips"] > skipped:
        raise CheckFailed("torch left stages out of CUDA graphs: TORCH_LOGS=perf_hints says why", cells)
    if any(place != places[0] for place in places):
        raise CheckFailed("the state moved between trajectories", cells)
    return cells


@contextlib.contextmanager
def counted(kind: type, *names: str) -> Iterator[Counter[str]]:
    """How often these methods of a class are called within the block."""
    calls: Counter[str] = Counter()
    methods = {name: vars(kind)[name] for name in names}
    for name, method in methods.items():
        setattr(kind, name, _counting(calls, name, method))
    try:
        yield calls
    finally:
        for name, method in methods.items():
            setattr(kind, name, method)


def _counting(calls: Counter[str], name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return method(*args, **kwargs)

    return call
