"""A setting's residual diffs over the steps, with the steps that were hits, as an SVG picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .records import Record
from .results import Row

WIDTH, HEIGHT, LEFT, BASE = 640, 120, 34, 14


@dataclass(frozen=True)
class Timeline:
    """Means over a row's drawings. diffs: step → diff, where one decided. hits: share, per step."""

    steps: int
    diffs: Mapping[int, float]
    hits: tuple[float, ...]
    threshold: float


def timelines(row: Row) -> dict[str, Timeline]:
    """One for each context of a cached setting."""
    threshold = float(row.config.get("residual_diff_threshold", 0.0))
    names = row.records[0].contexts
    return {name: _timeline(row.records, name, threshold) for name in names}


def _timeline(records: Sequence[Record], name: str, threshold: float) -> Timeline:
    contexts = [r.contexts[name] for r in records]
    steps = contexts[0].steps
    seen: dict[int, list[float]] = {}
    hits = [0] * steps
    for context in contexts:
        for step, diff in context.residual_diffs.items():
            seen.setdefault(step, []).append(diff)
        for step in context.cached_steps:
            hits[step] += 1
    diffs = {step: sum(found) / len(found) for step, found in sorted(seen.items())}
    return Timeline(steps, diffs, tuple(h / len(contexts) for h in hits), threshold)


def svg(line: Timeline) -> str:
    """Bars: the share of drawings in which the step was a hit. Line: the diff. Dashes: threshold."""
    top = max([*line.diffs.values(), line.threshold]) * 1.1 or 1.0
    slot = (WIDTH - LEFT) / line.steps

    def x(step: int) -> float:
        return LEFT + (step + 0.5) * slot

    def y(diff: float) -> float:
        return (HEIGHT - BASE) * (1 - diff / top)

    bars = "".join(
        f'<rect x="{x(s) - slot / 2:.1f}" y="0" width="{slot - 0.5:.1f}" height="{HEIGHT - BASE}" '
        f'class="hit" opacity="{share:.2f}"><title>step {s}: a hit in {share:.0%}</title></rect>'
        for s, share in enumerate(line.hits)
        if share
    )
    points = " ".join(f"{x(s):.1f},{y(d):.1f}" for s, d in line.diffs.items())
    dots = "".join(
        f'<circle cx="{x(s):.1f}" cy="{y(d):.1f}" r="2"><title>step {s}: {d:.4f}</title></circle>'
        for s, d in line.diffs.items()
    )
    limit = y(line.threshold)
    marks = [_text(x(s), HEIGHT - 3, str(s), "middle") for s in range(0, line.steps, 5)]
    marks += [
        _text(LEFT - 3, limit + 3, f"{line.threshold:g}", "end"),
        _text(LEFT - 3, 9, f"{top:.2f}", "end"),
    ]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" class="timeline" role="img">{bars}'
        f'<line x1="{LEFT}" x2="{WIDTH}" y1="{limit:.1f}" y2="{limit:.1f}" class="limit"/>'
        f'<polyline points="{points}"/>{dots}{"".join(marks)}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
