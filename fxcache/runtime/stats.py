"""The report of what was cached."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy
import torch

from ..errors import UnknownContextError
from ..ir.keys import StateKey
from ..ir.ranks import RankGroup
from ..ops.clock import LIVE, STEP
from ..ops.plan import UNPLANNED
from ..spelling import nearest
from .flops import StepFlops

STATE_UNITS = 1024**2
PERCENTILES = (25, 50, 75, 90)


@dataclass(frozen=True)
class SegmentStats:
    """One segment's decisions in a trajectory.

    hits: per step, whether it replayed its cache. residual_diffs: step → diff, where one decided.
    unplanned: steps that belonged to no plan, and so were computed, where plans were to be followed.

    Example:
        >>> from fxcache.runtime.stats import SegmentStats
        >>> SegmentStats(hits=(False, True), residual_diffs={1: 0.05}).hits[1]
        True
    """

    hits: tuple[bool, ...]
    residual_diffs: Mapping[int, float]
    unplanned: tuple[int, ...] = ()


@dataclass(frozen=True)
class ContextStats:
    """The last trajectory of one context; `cached.stats()["cond"]` is one. Steps count from 0.

    segments: the decisions of each segment.
    flops_done, flops_saved: FLOPs of all steps for the whole batch, a multiply-add as two; None where they
        could not be counted. Those of a model are counted when first asked for; until then, or until these
        statistics go, its graph stays.
    state_bytes: bytes of memory held by this context now.
    follows: the context whose hits decide those of this one; None where it decides by itself.

    Example:
        >>> from fxcache import ContextStats
        >>> from fxcache.runtime.stats import SegmentStats
        >>> segment = SegmentStats(hits=(False, True, True), residual_diffs={1: 0.05, 2: 0.09})
        >>> stats = ContextStats((segment,), flops_done=120, flops_saved=180, state_bytes=4096)
        >>> stats.steps, stats.hits, stats.cached_steps
        (3, (False, True, True), (1, 2))
        >>> stats.residual_diffs[2], stats.diff_quantiles[50], stats.unplanned
        (0.09, 0.07, ())
    """

    segments: tuple[SegmentStats, ...]
    flops_done: int | None
    flops_saved: int | None
    state_bytes: int
    follows: str | None = None

    @staticmethod
    def _counting_later(
        segments: tuple[SegmentStats, ...],
        count: Callable[[], StepFlops | None],
        state_bytes: int,
        follows: str | None,
    ) -> ContextStats:
        """With FLOPs to be counted by `count` when first asked for: it takes as long as many small steps."""
        stats = object.__new__(ContextStats)
        stats.__dict__.update(segments=segments, state_bytes=state_bytes, follows=follows, _count=count)
        return stats

    if not TYPE_CHECKING:  # the fields have their types

        def __getattr__(self, name: str) -> Any:
            """FLOPs that were not counted yet."""
            if name in ("flops_done", "flops_saved"):
                if count := self.__dict__.get("_count"):
                    done, saved = _count_flops(self.segments, count())
                    self.__dict__.update(flops_done=done, flops_saved=saved, _count=None)
                if name in self.__dict__:  # now, or meanwhile by another thread
                    return self.__dict__[name]
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # numbers, without a graph

    @property
    def hits(self) -> tuple[bool, ...]:
        """Per step, whether every segment replayed its cache."""
        return tuple(all(step) for step in zip(*(s.hits for s in self.segments), strict=True))

    @property
    def steps(self) -> int:
        """Steps run."""
        return len(self.segments[0].hits) if self.segments else 0

    @property
    def cached_steps(self) -> tuple[int, ...]:
        """Which steps were hits."""
        return tuple(i for i, hit in enumerate(self.hits) if hit)

    @property
    def unplanned(self) -> tuple[int, ...]:
        """Steps that belonged to none of the plans to be followed: they were computed, uncorrected."""
        return self.segments[0].unplanned if self.segments else ()

    @property
    def residual_diffs(self) -> Mapping[int, float]:
        """Step → relative change of the first segment's front residual, where that decided."""
        return self.segments[0].residual_diffs if self.segments else {}

    @property
    def diff_quantiles(self) -> Mapping[int, float]:
        """The 25th, 50th, 75th and 90th percentile of the finite residual diffs; empty where none decided.

        With the percentile p as its threshold, about p percent of these steps would have been hits.
        """
        diffs = [diff for diff in self.residual_diffs.values() if math.isfinite(diff)]
        found = numpy.percentile(diffs, PERCENTILES).tolist() if diffs else []
        return dict(zip(PERCENTILES, found, strict=False))


def speedup(contexts: Iterable[ContextStats]) -> float:
    """How many times less was done than without a cache: in FLOPs, or in steps where these are not known.

    Example:
        >>> from fxcache import ContextStats
        >>> from fxcache.runtime.stats import SegmentStats, speedup
        >>> segment = SegmentStats(hits=(False, True, True, False), residual_diffs={})
        >>> counted, unknown = (ContextStats((segment,), *flops, 0) for flops in ((120, 180), (None, None)))
        >>> speedup([counted]), speedup([unknown])
        (2.5, 2.0)
    """
    done = saved = 0
    for context in contexts:
        if context.flops_done is None or context.flops_saved is None:
            hits = len(context.cached_steps)
            done, saved = done + context.steps - hits, saved + hits
        else:
            done, saved = done + context.flops_done, saved + context.flops_saved
    return (done + saved) / done


def context_stats(
    state: Mapping[str, torch.Tensor],
    segments: int,
    flops: Callable[[], StepFlops | None],
    follows: str | None = None,
) -> ContextStats:
    """Read a context's record out of its state tensors, which waits for the device.

    Args:
        state: by name; `clock_i` [4, WIDTH] and `log_i` [2, capacity] of segment i are read, of the others
            the size.
        segments: how many decisions a step makes.
        flops: returns those of a step, or None where they are not known.
        follows: the context that this one follows.

    Example:
        >>> import torch
        >>> from fxcache.ops.clock import LIVE, STEP, initial_clock
        >>> from fxcache.runtime.flops import StepFlops
        >>> from fxcache.runtime.stats import context_stats
        >>> clock = torch.tensor(initial_clock())
        >>> clock[LIVE, STEP] = 2
        >>> state = {"clock_0": clock, "log_0": torch.tensor([[0.0, 1.0], [float("nan"), 0.05]])}
        >>> step = StepFlops(trunk=10, compute=(90,), skip=(5,))
        >>> stats = context_stats(state, segments=1, flops=lambda: step)
        >>> stats.cached_steps, stats.flops_done, stats.flops_saved
        ((1,), 115, 85)
    """
    found = tuple(_segment_stats(state, i) for i in range(segments))
    if follows is not None:  # nothing was measured
        found = tuple(replace(segment, residual_diffs={}) for segment in found)
    size = sum(t.numel() * t.element_size() for t in state.values())
    return ContextStats._counting_later(found, flops, size, follows)


def _segment_stats(state: Mapping[str, torch.Tensor], index: int) -> SegmentStats:
    clock = state.get(StateKey("clock", index).name)
    if clock is None:
        return SegmentStats((), {})
    log = state[StateKey("log", index).name]
    steps = min(int(clock[LIVE, STEP].item()), log.shape[1])
    hits, diffs = log[:, :steps].tolist()
    decided = {i: d for i, d in enumerate(diffs) if d >= 0}
    unplanned = tuple(i for i, d in enumerate(diffs) if d == UNPLANNED)
    return SegmentStats(tuple(bool(h) for h in hits), decided, unplanned)


def _count_flops(segments: tuple[SegmentStats, ...], step: StepFlops | None) -> tuple[int | None, int | None]:
    if step is None:
        return None, None
    steps = len(segments[0].hits)
    done = step.trunk * steps
    for i, segment in enumerate(segments):
        hits = sum(segment.hits)
        done += step.skip[i] * hits + step.compute[i] * (steps - hits)
    return done, step.computed * steps - done


@dataclass(frozen=True)
class Stats:
    """Statistics of a cached model, by context; prints as a table. What `cached.stats()` returns.

    contexts: by the name given to `cache_context`, "default" outside of any. Further trajectories of one
        context are called `name/2` and so on.
    processes: the groups of ranks that decide together; none where each process decides for itself.

    Raises:
        UnknownContextError: `stats[name]` of a context that ran no step.

    Example:
        >>> import torch
        >>> import fxcache
        >>> from fxcache.embedded import example_inputs, load_transformer
        >>> cached = fxcache.transform(load_transformer(), "F1B0_W1M0MC1_T0O1_R9")
        >>> inputs = example_inputs(batch=1)
        >>> with torch.no_grad():
        ...     for timestep in (1.0, 0.75, 0.5, 0.25):
        ...         output = cached(**{**inputs, "timestep": torch.tensor([timestep])})
        >>> stats = cached.stats()
        >>> stats["default"].cached_steps
        (1, 3)
        >>> stats.steps, stats.cached, stats.state_bytes > 0
        (4, 2, True)
        >>> print(stats)
        context  steps  cached   cached steps  mean diff  FLOPs done  saved     state
        -------  -----  -------  ------------  ---------  ----------  --------  --------
        default  4      2 (50%)  1 3           ...        ... M       ... M     ... MiB
        default: diffs P25 ..., P50 ..., P75 ..., P90 ...
    """

    contexts: Mapping[str, ContextStats]
    processes: tuple[RankGroup, ...] = ()

    def __getitem__(self, name: str) -> ContextStats:
        if name not in self.contexts:
            raise UnknownContextError(name, nearest(str(name), self.contexts), tuple(self.contexts))
        return self.contexts[name]

    @property
    def steps(self) -> int:
        """Steps run, over all contexts."""
        return sum(c.steps for c in self.contexts.values())

    @property
    def cached(self) -> int:
        """Hits over all contexts."""
        return sum(len(c.cached_steps) for c in self.contexts.values())

    @property
    def state_bytes(self) -> int:
        """Bytes of memory held by all contexts."""
        return sum(c.state_bytes for c in self.contexts.values())

    def __str__(self) -> str:
        if not self.contexts:
            return "no step was run"
        head = ("context", "steps", "cached", "cached steps", "mean diff", "FLOPs done", "saved", "state")
        rows = [head, *(_row(name, c) for name, c in self.contexts.items())]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip() for r in rows]
        lines.insert(1, "  ".join("-" * w for w in widths))
        for name, context in self.contexts.items():
            if context.follows is not None:
                lines.append(f"{name}: follows {context.follows}")
            quantiles = ", ".join(f"P{p} {value:.4f}" for p, value in context.diff_quantiles.items())
            if quantiles:
                lines.append(f"{name}: diffs {quantiles}")
            if context.unplanned:
                lines.append(f"{name}: steps {ranges(context.unplanned)} are of no plan, and were computed")
        lines += [group.describe() for group in self.processes]
        return "\n".join(lines)


def _row(name: str, stats: ContextStats) -> tuple[str, ...]:
    diffs = list(stats.residual_diffs.values())
    share = f"{len(stats.cached_steps)} ({len(stats.cached_steps) / max(stats.steps, 1):.0%})"
    return (
        name,
        str(stats.steps),
        share,
        ranges(stats.cached_steps) or "none",
        f"{sum(diffs) / len(diffs):.4f}" if diffs else "-",
        amount(stats.flops_done),
        amount(stats.flops_saved),
        f"{stats.state_bytes / STATE_UNITS:.2f} MiB",
    )


def ranges(steps: tuple[int, ...]) -> str:
    """Steps as text, runs of them as ranges.

    Example:
        >>> from fxcache.runtime.stats import ranges
        >>> ranges((4, 5, 6, 9))
        '4-6 9'
    """
    groups: list[list[int]] = []
    for step in steps:
        if groups and groups[-1][1] == step - 1:
            groups[-1][1] = step
        else:
            groups.append([step, step])
    return " ".join(f"{a}-{b}" if b > a else str(a) for a, b in groups)


def amount(count: int | None) -> str:
    """A number of FLOPs with the prefix of its unit.

    Example:
        >>> from fxcache.runtime.stats import amount
        >>> amount(3_730_000_000_000) + "FLOPs", amount(None) + "FLOPs"
        ('3.73 TFLOPs', 'unknown FLOPs')
    """
    if count is None:
        return "unknown "
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} "
