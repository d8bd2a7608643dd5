"""Whether a run's latencies are worth a plot."""

from __future__ import annotations

from .results import Results

ALONE = 0.1  # cores that others may keep busy


def latency_doubt(results: Results) -> str | None:
    """Why the latencies do not compare the settings; None where they were measured on a machine at rest.

    Where the run does not know what else ran, settings that do less than the plain model and take
    longer give it away.
    """
    others = _others(results)
    if others is not None:
        if others <= ALONE:
            return None
        return f"other processes kept {others:.1f} cores busy while it was measured"
    base = results.baseline
    slower = [
        row.name
        for row in results.rows
        if row.seconds > base.seconds and (row.flops or 0.0) < (base.flops or 0.0)
    ]
    if not slower:
        return None
    return f"{', '.join(slower)} took longer than the plain model and did less"


def _others(results: Results) -> float | None:
    """Cores that others kept busy, on average over the time that was measured; None where not known."""
    records = [record for row in results.rows for record in row.records]
    known = [(r.others, r.seconds) for r in records if r.others is not None]
    if len(known) < len(records):
        return None
    return sum(others * seconds for others, seconds in known) / sum(seconds for _, seconds in known)
