"""A setting's residual diffs over the steps, with the steps that were hits, as an SVG picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .records import Record
from .results import Row

WIDTH, LEFT, BASE = 640, 34, 14
TALL, LOW = 120, 32  # with a line of diffs, and with bars only
FLAT = 5  # times the largest diff: a threshold beyond is not drawn


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
    """Bars: the share of drawings in which the step was a hit. Line: the diff. Dashes: threshold.

    A plan, or another rule that measures no diff, has bars only.
    """
    height = TALL if line.diffs else LOW
    marks = [_text(_x(line, s), height - 3, str(s), "middle") for s in range(0, line.steps, 5)]
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" class="timeline" role="img">{_bars(line, height - BASE)}'
        f"{_diffs(line, height - BASE) if line.diffs else ''}{''.join(marks)}</svg>"
    )


def _x(line: Timeline, step: int) -> float:
    return LEFT + (step + 0.5) * (WIDTH - LEFT) / line.steps


def _bars(line: Timeline, height: float) -> str:
    width = (WIDTH - LEFT) / line.steps

    def bar(step: int, kind: str, opacity: str, title: str) -> str:
        return (
            f'<rect x="{_x(line, step) - width / 2:.1f}" y="0" width="{width - 0.5:.1f}" height="{height}" '
            f'class="{kind}"{opacity}><title>{title}</title></rect>'
        )

    return "".join(
        bar(s, "hit", f' opacity="{share:.2f}"', f"step {s}: a hit in {share:.0%}")
        if share
        else bar(s, "slot", "", f"step {s}: computed")
        for s, share in enumerate(line.hits)
    )


def _diffs(line: Timeline, height: float) -> str:
    """The line, and the threshold unless it is so high that the line would lie flat."""
    most = max(line.diffs.values())
    limited = line.threshold <= FLAT * most
    top = 1.1 * max(most, line.threshold if limited else 0.0) or 1.0
    places = {s: (_x(line, s), height * (1 - diff / top)) for s, diff in line.diffs.items()}
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places.values())
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2"><title>step {s}: {line.diffs[s]:.4f}</title></circle>'
        for s, (x, y) in places.items()
    )
    limit = _limit(height * (1 - line.threshold / top), line.threshold) if limited else ""
    scale = _text(LEFT - 3, 9, f"{top:.2g}", "end") if line.threshold < 0.85 * top or not limited else ""
    return f'{limit}<polyline points="{points}"/>{dots}{scale}'


def _limit(y: float, threshold: float) -> str:
    return (
        f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" class="limit"/>'
        f"{_text(LEFT - 3, y + 3, f'{threshold:g}', 'end')}"
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
