"""Quality against what it costs, by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from .errors import MissingExtraError
from .quality.catalogue import MEASURES, Measure
from .results import Results, Row
from .tables import flops_unit

CACHED, PLAIN = "#1f6feb", "#8a8f98"
DPI = 110


def plots(results: Results) -> dict[str, bytes]:
    """PNG pictures by name: each headline measure against FLOPs and against latency.

    Raises `MissingExtraError` without matplotlib.
    """
    found: dict[str, bytes] = {}
    for measure in MEASURES:
        if measure.key in ("clip_score", "image_reward", "psnr", "fid") and results.measured(measure.key):
            if all(row.flops is not None for row in results.rows):
                found[f"{measure.key}-flops"] = _pareto(results, measure, "flops")
            found[f"{measure.key}-latency"] = _pareto(results, measure, "latency")
    return found


def _pareto(results: Results, measure: Measure, against: str) -> bytes:
    figure, axes = _figure()
    unit, size = flops_unit(results)

    def point(row: Row) -> tuple[float, float]:
        cost = (row.flops or 0.0) / size if against == "flops" else row.seconds
        return cost, row.values[measure.key]

    shown = [r for r in results.rows if r is not results.baseline]
    plain = sorted(point(r) for r in shown if r.plain)
    cached = sorted(point(r) for r in shown if not r.plain)
    for solver, style in zip((None, *results.solvers), ("s-", "^--", "v:", "D-."), strict=False):
        rows = sorted(point(r) for r in shown if r.plain and r.solver == solver)
        label = "fewer plain steps" + (f", {solver}" if solver else "")
        axes.plot(*_columns(rows), style, color=PLAIN, label=label, markersize=5, linewidth=1)
    axes.plot(*_columns(cached), "o", color=CACHED, label="cached", markersize=6)
    front = pareto_front(cached, measure.best)
    axes.step(*_columns(front), "-", color=CACHED, where="post", linewidth=1, alpha=0.6, label="best cached")
    named = sorted((point(r), r.name) for r in shown if not r.plain and point(r) in front)
    _label(axes, named, reach=max(p[0] for p in [*plain, *cached]))
    axes.axvline(point(results.baseline)[0], color=PLAIN, linestyle=":", label="uncached")
    axes.set_xlabel(f"{unit} a picture" if against == "flops" else "seconds a picture")
    axes.set_ylabel(measure.arrow)
    axes.legend(fontsize=7, loc="best")
    axes.grid(alpha=0.25)
    return _png(figure)


def _label(axes: Any, named: Sequence[tuple[tuple[float, float], str]], reach: float) -> None:
    """Names beside points, in turn above and below them, those on the right half to their left."""
    start = min((p[0] for p, _ in named), default=reach)
    for i, (place, name) in enumerate(named):
        leftward = place[0] > (start + reach) / 2
        axes.annotate(
            name,
            place,
            xytext=(-4 if leftward else 4, -9 if i % 2 else 5),
            textcoords="offset points",
            ha="right" if leftward else "left",
            fontsize=6,
        )


def pareto_front(points: Sequence[tuple[float, float]], best: int) -> list[tuple[float, float]]:
    """The points (cost, value) that no other point beats in both, cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda p: (p[0], -best * p[1])):
        if not front or best * value > best * front[-1][1]:
            front.append((cost, value))
    return front


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [p[0] for p in points], [p[1] for p in points]


def _figure() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("fxcache bench report", "matplotlib", "bench") from error
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
