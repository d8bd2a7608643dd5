"""How many plain steps cost what a cached setting costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .records import Record
from .sweep import BASELINE, Setting, fewer_steps


def mean_flops(records: Iterable[Record]) -> dict[str, float]:
    """FLOPs per picture of each setting; a setting whose FLOPs are unknown is left out."""
    counts: dict[str, list[float | None]] = {}
    for record in records:
        counts.setdefault(record.setting, []).append(record.flops_done)
    known = {name: [c for c in found if c is not None] for name, found in counts.items()}
    return {
        name: sum(known[name]) / len(found)
        for name, found in counts.items()
        if len(known[name]) == len(found)
    }


def equal_steps(flops: Mapping[str, float], steps: int) -> dict[str, int]:
    """For each cached setting the number of plain steps nearest to it in FLOPs.

    Args:
        flops: per picture of each setting, the baseline's among them (else nothing is known).
        steps: of the baseline.
    """
    whole = flops.get(BASELINE.name)
    if not whole:
        return {}
    return {
        name: min(max(round(done / (whole / steps)), 1), steps)
        for name, done in flops.items()
        if not name.startswith(BASELINE.name)
    }


def plain_rows(flops: Mapping[str, float], steps: int, solvers: Sequence[str] = ()) -> tuple[Setting, ...]:
    """The rows of fewer plain steps that a run needs, most steps first, each once; then those of solvers."""
    wanted = sorted(set(equal_steps(flops, steps).values()) - {steps}, reverse=True)
    return tuple(fewer_steps(n, solver) for solver in (None, *solvers) for n in wanted)
