"""Who takes part in the timings at full width: each is built, and compared with eager, by one check."""

from __future__ import annotations

import copy
import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import fxcache
from bench.compile import NEVER, Minimum, cache_dit, first_block_cache
from bench.overhead import ALWAYS
from bench.planned import of_hits
from fxcache import CacheConfig, CachedTransformer
from fxcache.backends.inductor import Mode

from .modes import compile_in
from .rows import Cells, Check, CheckFailed, NotHere
from .setup import Setup
from .subjects import Subject
from .trajectories import require_close

Step = Callable[..., Any]
SETTLING = 3  # trajectories: torch warms up CUDA graphs, records and replays them
CALLS = 6
COMPILING, RUNNING = 60.0, 15.0  # seconds, generously
KINDS = {"hit": ALWAYS, "miss": NEVER}


@dataclass(frozen=True)
class Contender:
    """kind: "plain", "minimum", "hit" ... compiled: whether it is, and so to be held against what is.

    cached, context: where its hits are counted.
    """

    kind: str
    compiled: bool
    step: Step
    cached: CachedTransformer | None = None
    context: str = ""


class Field:
    """All of them, by name. steps: of the longest run, which a plan has to know."""

    def __init__(self, setup: Setup, subject: Subject, steps: int) -> None:
        self.entered: dict[str, Contender] = {}
        self._setup, self._subject, self._steps = setup, subject, steps
        self._expected: dict[str, list[Tensor]] = {}

    def checks(self) -> Iterator[Check]:
        """One for each that is built; those first that the others are held against."""
        yield Check("plain, eager", partial(self._plain, False), RUNNING)
        yield Check("minimum, eager", partial(self._minimum, False), RUNNING)
        yield Check("cached, eager", partial(self._cached, None), RUNNING)
        yield Check("plan, eager", partial(self._planned, None), RUNNING)
        yield Check("plain, compiled", partial(self._plain, True), COMPILING)
        yield Check("minimum, compiled", partial(self._minimum, True), COMPILING)
        yield Check("cached, fused", partial(self._cached, "fused"), COMPILING)
        yield Check("cached, reduce-overhead", partial(self._cached, "reduce-overhead"), COMPILING)
        yield Check("plan, fused", partial(self._planned, "fused"), COMPILING)
        for name, make in (("FirstBlockCache", first_block_cache), ("cache-dit", cache_dit)):
            yield Check(f"{name}, eager", partial(self._peer, name, make, False), RUNNING)
            yield Check(f"{name}, compiled", partial(self._peer, name, make, True), COMPILING)
        if not self._setup.quick:
            yield Check("cached, single", partial(self._cached, "single"), COMPILING)
            yield Check("cached, staged", partial(self._cached, "staged"), COMPILING)

    def _plain(self, compiled: bool) -> Cells:
        model = self._subject.model
        step = torch.compile(model, fullgraph=True, backend=self._setup.backend) if compiled else model
        cells, outputs = self._settled([step])
        self._expected.setdefault("plain", outputs[0])
        self._enter("plain", compiled, step)
        return {**cells, "error": self._error(outputs[0], "plain")}

    def _minimum(self, compiled: bool) -> Cells:
        """It returns what is no step's output: nothing to compare."""
        least: Any = Minimum(self._subject.model)
        if compiled:
            least = torch.compile(least, fullgraph=True, backend=self._setup.backend)
        tokens = self._subject.start
        width = self._subject.model.inner_dim
        previous = torch.randn(*tokens.shape[:2], width, device=tokens.device, dtype=tokens.dtype)

        def step(**arguments: Any) -> Any:
            return least(**arguments, previous=previous)

        cells, _ = self._settled([step])
        self._enter("minimum", compiled, step)
        return cells

    def _cached(self, mode: Mode | None) -> Cells:
        """Hits and misses of one model, which differ in state alone."""
        cached = fxcache.transform(self._subject.model, ALWAYS)
        cached = cached if mode is None else compile_in(self._setup, cached, mode)
        steps = {kind: _within(cached, kind, config) for kind, config in KINDS.items()}
        cells, outputs = self._settled(list(steps.values()))
        for (kind, step), found in zip(steps.items(), outputs, strict=True):
            hits = cached.stats()[kind].hits
            if hits != (False, *[kind == "hit"] * (CALLS - 1)):
                raise CheckFailed(f"hits of '{kind}' are {hits}")
            self._expected.setdefault(kind, found)
            self._enter(kind, mode is not None, step, mode or "eager", cached)
        errors = [self._error(found, kind) for found, kind in zip(outputs, steps, strict=True)]
        errors.append(self._error(outputs[1], "plain"))
        cached.reset()
        return {**cells, "error": max(errors)}

    def _planned(self, mode: Mode | None) -> Cells:
        cached = fxcache.transform(self._subject.model, CacheConfig.from_plans(of_hits(self._steps)))
        cached = cached if mode is None else compile_in(self._setup, cached, mode)
        step = _within(cached, "planned hit", None)
        cells, outputs = self._settled([step], cached.reset)
        self._expected.setdefault("planned hit", outputs[0])
        self._enter("planned hit", mode is not None, step, mode or "eager", cached)
        cached.reset()
        return {**cells, "error": self._error(outputs[0], "planned hit")}

    def _peer(self, name: str, make: Callable[..., Step], compiled: bool) -> Cells:
        """Always a hit, too. On a copy that shares the weights: some patch what they are given."""
        if name == "cache-dit" and importlib.util.find_spec("cache_dit") is None:
            raise NotHere("not installed: pip install 'fxcache[peers]'")
        model = self._subject.model
        shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
        options = {"backend": self._setup.backend} if compiled else {}
        step = make(copy.deepcopy(model, shared), compiled, **options)
        cells, _ = self._settled([step])
        self._enter(f"hit, {name}", compiled, step)
        return cells

    def _enter(
        self, kind: str, compiled: bool, step: Step, how: str = "", cached: CachedTransformer | None = None
    ) -> None:
        how = how or ("compiled" if compiled else "eager")
        self.entered[f"{kind}, {how}"] = Contender(kind, compiled, step, cached, kind)

    def _settled(
        self, steps: Sequence[Step], between: Callable[[], None] = lambda: None
    ) -> tuple[Cells, list[list[Tensor]]]:
        """Seconds until code is compiled and graphs are recorded, and the outputs of the last trajectory."""
        begin = time.perf_counter()
        outputs: list[list[Tensor]] = []
        with torch.no_grad():
            for _ in range(SETTLING):
                between()
                calls = [self._subject.call(i, self._steps) for i in range(CALLS)]
                outputs = [[step(**call)[0] for call in calls] for step in steps]
        return {"first trajectories, s": time.perf_counter() - begin}, outputs

    def _error(self, found: Sequence[Tensor], kind: str) -> float:
        if kind not in self._expected:
            raise CheckFailed(f"there is no {kind}, eager, to compare with")
        return require_close(found, self._expected[kind], self._subject.dtype, f"{kind}, eager")


def _within(cached: CachedTransformer, context: str, config: CacheConfig | None) -> Step:
    """A call in a context of its own, as a pipeline makes it."""

    def step(**arguments: Any) -> Any:
        with cached.cache_context(context, config):
            return cached(**arguments)

    return step
