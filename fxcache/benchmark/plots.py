"""Quality against what it costs, by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .inline_svg import POINT, inline_svg
from .labels import add_labels, short_names
from .latency import latency_doubt
from .quality.catalogue import MEASURES, Measure
from .results import Results, Row
from .tables import flops_unit

HEADLINES = ("clip_score", "image_reward", "psnr", "fid")
CACHED, PLAIN, TEXT, GRID = "#1f6feb", "#8a8f98", "#24292f", "#d8dce1"
VARIABLES = {CACHED: "--accent", PLAIN: "--muted", TEXT: "--text", GRID: "--line"}
DPI = 130


@dataclass(frozen=True)
class Size:
    """Of a plot, in inches, and of its letters, in points.

    every: label all cached settings, not the best only. columns: of the legend.
    """

    name: str
    width: float
    height: float
    letters: float
    every: bool
    columns: int


WIDE = Size("wide", 9.0, 5.2, 8.0, every=True, columns=6)
NARROW = Size("narrow", 4.4, 4.6, 8.5, every=False, columns=2)


@dataclass(frozen=True)
class Plot:
    """A measure of all rows against their FLOPs or their latency."""

    results: Results
    measure: Measure
    against: str

    @property
    def name(self) -> str:
        return f"{self.measure.key}-{self.against}"

    @property
    def title(self) -> str:
        return f"{self.measure.title} against {'FLOPs' if self.against == 'flops' else 'latency'}"

    def png(self) -> bytes:
        """As a picture of its own."""
        buffer = io.BytesIO()
        _figure(self, WIDE).savefig(buffer, format="png", dpi=DPI)
        return buffer.getvalue()

    def svg(self, size: Size) -> str:
        """As part of a page, in the page's colors; its points carry the numbers of their rows."""
        return inline_svg(_figure(self, size), f"{self.name}-{size.name}", VARIABLES)

    def point(self, row: Row) -> tuple[float, float]:
        cost = (row.flops or 0.0) / flops_unit(self.results)[1] if self.against == "flops" else row.seconds
        return cost, row.values[self.measure.key]


def plots(results: Results) -> tuple[Plot, ...]:
    """Each headline measure against FLOPs, and against latency where that was measured alone."""
    costs = ["flops"] if all(row.flops is not None for row in results.rows) else []
    if latency_doubt(results) is None:
        costs.append("latency")
    measures = [m for m in MEASURES if m.key in HEADLINES and results.measured(m.key)]
    return tuple(Plot(results, measure, against) for measure in measures for against in costs)


def pareto_front(points: Iterable[tuple[float, float]], best: int) -> list[tuple[float, float]]:
    """The points (cost, value) that no other point beats in both, cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda p: (p[0], -best * p[1])):
        if not front or best * value > best * front[-1][1]:
            front.append((cost, value))
    return front


def _figure(plot: Plot, size: Size) -> Any:
    from matplotlib import rc_context

    colors = dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), TEXT)
    settings: dict[Any, Any] = {"axes.edgecolor": GRID, "grid.color": GRID, "font.size": size.letters}
    with rc_context(settings | colors):
        return _drawn(plot, size)


def _drawn(plot: Plot, size: Size) -> Any:
    """The whole drawing; its labels come last, as they keep clear of the rest."""
    figure, axes = _axes(size)
    unit, _ = flops_unit(plot.results)
    axes.set_xlabel(f"{unit} a picture" if plot.against == "flops" else "seconds a picture")
    axes.set_ylabel(plot.measure.arrow)
    _draw_lines(axes, plot)
    _draw_points(axes, plot)
    figure.legend(loc="outside lower center", ncols=size.columns, frameon=False, fontsize=size.letters)
    axes.margins(x=0.06, y=0.08)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # what is placed now stays
    _draw_labels(axes, plot, size)
    return figure


def _draw_lines(axes: Any, plot: Plot) -> None:
    """The best cached settings, the uncached model's cost, and a line for each solver's fewer steps."""
    rows = plot.results.rows
    front = pareto_front(map(plot.point, _cached(plot)), plot.measure.best)
    axes.plot([], [], "o", color=CACHED, markersize=5.5, label="cached")
    axes.step(*_columns(front), "-", color=CACHED, where="post", linewidth=1, alpha=0.6, label="best cached")
    axes.axvline(plot.point(plot.results.baseline)[0], color=PLAIN, linestyle=":", label="uncached")
    for solver, style in zip((None, *plot.results.solvers), ("-", "--", ":", "-."), strict=False):
        fewer = sorted(plot.point(r) for r in rows[1:] if r.plain and r.solver == solver)
        if fewer:
            label = "fewer plain steps" + (f", {solver}" if solver else "")
            axes.plot(*_columns(fewer), style, color=PLAIN, linewidth=1, label=label)


def _draw_points(axes: Any, plot: Plot) -> None:
    markers = dict(zip((None, *plot.results.solvers), "s^vD", strict=False))
    for number, row in enumerate(plot.results.rows):
        style = (
            {"marker": markers[row.solver], "color": PLAIN} if row.plain else {"marker": "o", "color": CACHED}
        )
        (point,) = axes.plot(*_columns([plot.point(row)]), **style, linestyle="none", markersize=5.5)
        point.set_gid(f"{POINT}{number}")


def _draw_labels(axes: Any, plot: Plot, size: Size) -> None:
    front = set(pareto_front(map(plot.point, _cached(plot)), plot.measure.best))
    rows = sorted(_cached(plot), key=lambda r: plot.point(r) not in front)
    named = {r.name: plot.point(r) for r in rows if size.every or plot.point(r) in front}
    short = short_names([r.name for r in _cached(plot)])
    others = [plot.point(r) for r in plot.results.rows]
    add_labels(axes, {short[name]: point for name, point in named.items()}, others, size.letters)


def _cached(plot: Plot) -> list[Row]:
    return [row for row in plot.results.rows if not row.plain]


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [p[0] for p in points], [p[1] for p in points]


def _axes(size: Size) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(size.width, size.height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
