"""The report of what was cached."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..errors import UnknownContextError
from ..ir.keys import StateKey
from ..ops.clock import LIVE, STEP
from ..spelling import nearest
from .flops import StepFlops

STATE_UNITS = 1024**2


@dataclass(frozen=True)
class SegmentStats:
    """One segment's decisions in a trajectory. `residual_diffs`: step → diff, where one decided."""

    hits: tuple[bool, ...]
    residual_diffs: Mapping[int, float]


@dataclass(frozen=True)
class ContextStats:
    """The last trajectory of one context.

    steps: steps run. hits: per step, whether every segment replayed its cache.
    cached_steps: indices of the hits. residual_diffs: of the first segment.
    flops_done, flops_saved: for the whole batch, None where they could not be counted.
    state_bytes: memory held by this context now.
    """

    segments: tuple[SegmentStats, ...]
    flops_done: int | None
    flops_saved: int | None
    state_bytes: int

    @property
    def hits(self) -> tuple[bool, ...]:
        return tuple(all(step) for step in zip(*(s.hits for s in self.segments), strict=True))

    @property
    def steps(self) -> int:
        return len(self.segments[0].hits) if self.segments else 0

    @property
    def cached_steps(self) -> tuple[int, ...]:
        return tuple(i for i, hit in enumerate(self.hits) if hit)

    @property
    def residual_diffs(self) -> Mapping[int, float]:
        return self.segments[0].residual_diffs if self.segments else {}


def context_stats(state: Mapping[str, torch.Tensor], segments: int, flops: StepFlops | None) -> ContextStats:
    """Read a context's record out of its state tensors."""
    found = tuple(_segment_stats(state, i) for i in range(segments))
    done, saved = _count_flops(found, flops)
    size = sum(t.numel() * t.element_size() for t in state.values())
    return ContextStats(found, done, saved, size)


def _segment_stats(state: Mapping[str, torch.Tensor], index: int) -> SegmentStats:
    clock = state.get(StateKey("clock", index).name)
    if clock is None:
        return SegmentStats((), {})
    log = state[StateKey("log", index).name]
    steps = min(int(clock[LIVE, STEP].item()), log.shape[1])
    hits, diffs = log[:, :steps].tolist()
    decided = {i: d for i, d in enumerate(diffs) if not math.isnan(d)}
    return SegmentStats(tuple(bool(h) for h in hits), decided)


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
    """Statistics of a cached model, by context; prints as a table."""

    contexts: Mapping[str, ContextStats]

    def __getitem__(self, name: str) -> ContextStats:
        if name not in self.contexts:
            raise UnknownContextError(name, nearest(str(name), self.contexts), tuple(self.contexts))
        return self.contexts[name]

    @property
    def steps(self) -> int:
        return sum(c.steps for c in self.contexts.values())

    @property
    def cached(self) -> int:
        """Hits over all contexts."""
        return sum(len(c.cached_steps) for c in self.contexts.values())

    @property
    def state_bytes(self) -> int:
        return sum(c.state_bytes for c in self.contexts.values())

    def __str__(self) -> str:
        if not self.contexts:
            return "no step was run"
        head = ("context", "steps", "cached", "cached steps", "mean diff", "FLOPs done", "saved", "state")
        rows = [head, *(_row(name, c) for name, c in self.contexts.items())]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(r, widths, strict=True)).rstrip() for r in rows]
        lines.insert(1, "  ".join("-" * w for w in widths))
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
    """`(4, 5, 6, 9)` → `4-6 9`."""
    groups: list[list[int]] = []
    for step in steps:
        if groups and groups[-1][1] == step - 1:
            groups[-1][1] = step
        else:
            groups.append([step, step])
    return " ".join(f"{a}-{b}" if b > a else str(a) for a, b in groups)


def amount(count: int | None) -> str:
    """A number of FLOPs with its unit: `3.73 T`."""
    if count is None:
        return "unknown "
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} "
