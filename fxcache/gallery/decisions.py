"""The picture of what was decided: which steps were hits, by which diffs, below which threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ..runtime.stats import ContextStats
from .run import Drawn

HIT, COMPUTED, CORRECTED, LIMIT, INK = "#a8cbf7", "#e6e8eb", "#f4b860", "#c4321c", "#1f2328"
TALL, FLAT = 1.35, 0.62  # inches of a row with diffs, and without
WIDTH, HEAD, FOOT, BELOW = 9.0, 0.85, 0.5, 0.42  # inches
LEFT, RIGHT = 0.62, 0.9


def decisions(title: str, drawn: Sequence[Drawn], out: Path) -> Path:
    """A row for each context of each setting: hits blue, diffs as points, the threshold dashed."""
    rows = [(one, name, context) for one in drawn for name, context in one.contexts.items()]
    heights = [TALL if _finite(context) else FLAT for _, _, context in rows]
    height = HEAD + FOOT + sum(heights) + BELOW * max(len(rows) - 1, 0)
    figure = Figure(figsize=(WIDTH, height), facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.16 / WIDTH, 1 - 0.12 / height, title, va="top", size=11, weight="bold", color=INK)
    top = HEAD
    for i, ((one, name, context), tall) in enumerate(zip(rows, heights, strict=True)):
        place = (LEFT / WIDTH, 1 - (top + tall) / height, (WIDTH - LEFT - RIGHT) / WIDTH, tall / height)
        axes = figure.add_axes(place)
        _row(axes, one, name, context)
        if i == len(rows) - 1:
            axes.set_xlabel("step", size=9, color=INK)
        top += tall + BELOW
    _legend(figure, rows, height)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    return out


def _row(axes: Any, one: Drawn, name: str, context: ContextStats) -> None:
    corrected = _corrected(one)
    for step, hit in enumerate(context.hits):
        color = HIT if hit else CORRECTED if step in corrected else COMPUTED
        axes.axvspan(step - 0.46, step + 0.46, color=color, linewidth=0)
    cached = f"{len(context.cached_steps)} of {context.steps} steps cached"
    follows = f", follows {context.follows}" if context.follows else ""
    axes.set_title(f"{_cut(one.name)}   {name}: {cached}{follows}", loc="left", size=9, color=INK, pad=4)
    axes.set_xlim(-0.5, max(context.steps, 1) - 0.5)
    axes.tick_params(labelsize=8, colors=INK, length=3)
    axes.locator_params(axis="x", integer=True, nbins=15)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    diffs = _finite(context)
    if not diffs:
        axes.set_yticks([])
        return
    axes.spines["left"].set_visible(True)
    axes.set_yscale("log")
    axes.plot(list(diffs), list(diffs.values()), "-", color=INK, linewidth=0.8, alpha=0.45)
    for hit in (True, False):
        chosen = {step: diff for step, diff in diffs.items() if context.hits[step] == hit}
        face = "#1f6feb" if hit else "white"
        axes.plot(
            list(chosen), list(chosen.values()), "o", markersize=4.5, markerfacecolor=face,
            markeredgecolor="#1f6feb" if hit else INK,
        )  # fmt: skip
    threshold = _threshold(one, context)
    seen = [*diffs.values(), *([threshold] if threshold else [])]
    axes.set_ylim(min(seen) / 1.5, max(seen) * 1.5)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(_sparse(seen))
    axes.tick_params(which="minor", labelsize=7, colors=INK, length=2)
    if threshold:
        axes.axhline(threshold, color=LIMIT, linestyle="--", linewidth=1)
        axes.text(
            1.008, threshold, f"R = {threshold:g}", transform=axes.get_yaxis_transform(),
            va="center", size=8, color=LIMIT,
        )  # fmt: skip


def _corrected(one: Drawn) -> set[int]:
    """Steps at which a plan pays back what its hits made wrong; of several plans this is not known."""
    config = one.candidate.config
    if config is None or len(config.plans) != 1:
        return set()
    (plan,) = config.plans
    return {step for step in range(plan.steps) if plan.is_corrected(step)}


def _threshold(one: Drawn, context: ContextStats) -> float | None:
    config = one.candidate.config
    return None if config is None or context.follows else config.residual_diff_threshold


def _sparse(seen: Sequence[float]) -> Any:
    """Names 2 and 5 between the decades where these are few."""
    few = math.log10(max(seen) / min(seen)) < 1.5

    def text(value: float, _: int) -> str:
        first = f"{value:.0e}"[0]
        return f"{value:g}" if few and first in "25" else ""

    return text


def _finite(context: ContextStats) -> dict[int, float]:
    """Diffs that a logarithmic axis can show."""
    return {s: d for s, d in sorted(context.residual_diffs.items()) if math.isfinite(d) and d > 0}


def _legend(figure: Any, rows: Sequence[tuple[Drawn, str, ContextStats]], height: float) -> None:
    shown: list[Any] = [
        Patch(color=HIT, label="cached (hit)"),
        Patch(color=COMPUTED, label="computed"),
    ]
    if any(_corrected(one) for one, _, _ in rows):
        shown.append(Patch(color=CORRECTED, label="computed, with feedback"))
    if any(_finite(context) for _, _, context in rows):
        shown.append(Line2D([], [], color=INK, marker="o", markersize=4.5, linewidth=0.8, label="diff"))
        shown.append(Line2D([], [], color=LIMIT, linestyle="--", linewidth=1, label="threshold R"))
    figure.legend(
        handles=shown, loc="upper left", bbox_to_anchor=(0.08 / WIDTH, 1 - 0.32 / height),
        ncols=len(shown), frameon=False, fontsize=8, labelcolor=INK, handlelength=1.4, columnspacing=1.6,
    )  # fmt: skip


def _cut(name: str, most: int = 62) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
