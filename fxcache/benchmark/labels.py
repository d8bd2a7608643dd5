"""Names beside the points of a plot: short, and none over another or over a point."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..notation import PATTERN
from .errors import MissingExtraError

Point = tuple[float, float]
PART = re.compile(r"[A-Z]{1,2}[\d.]+|_(?:E|LO|BE|HO)|_[A-Z]\{.*?\}")
ROUNDS = 300  # of adjustText; a limit in seconds would give other plots on a slower machine


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without the parts on which all settings in the notation agree; others as they are.

    `F8B0_W8M0MC3_T1O1_R0.12` is "F8 W8" beside `F1B0_W4M0MC3_T1O1_R0.12`.
    """
    parts = {name: PART.findall(name) for name in names if PATTERN.fullmatch(name)}
    if len(parts) < 2:
        return {name: name for name in names}
    common = set.intersection(*map(set, parts.values()))
    short = {name: " ".join(p for p in found if p not in common) for name, found in parts.items()}
    return {name: short.get(name) or name for name in names}


def add_labels(axes: Any, named: Mapping[str, Point], others: Sequence[Point], size: float) -> list[Any]:
    """Write names near their points, those that come first with precedence.

    adjustText moves them apart; one that still covers another, or a point, is left out.

    Args:
        axes: of matplotlib, with everything else drawn and its limits final.
        named: where each name's point is.
        others: further points to keep clear of.
        size: of the letters, in points.

    Returns:
        The texts that stayed. Raises `MissingExtraError`.
    """
    try:
        from adjustText import adjust_text
    except ImportError as error:
        raise MissingExtraError("fxcache bench report", "adjustText", "bench") from error
    if not named:
        return []
    texts = [axes.text(*point, name, fontsize=size) for name, point in named.items()]
    _, lines = adjust_text(
        texts,
        x=[x for x, _ in others],
        y=[y for _, y in others],
        ax=axes,
        iter_lim=ROUNDS,
        expand=(1.15, 1.5),
        force_static=(0.2, 0.4),
        arrowprops={"arrowstyle": "-", "color": axes.xaxis.label.get_color(), "linewidth": 0.5, "alpha": 0.5},
    )
    marks = [axes.transData.transform(point) for point in (*named.values(), *others)]
    return _without_overlaps(texts, lines, marks)


def _without_overlaps(texts: Sequence[Any], lines: Sequence[Any], marks: Sequence[Any]) -> list[Any]:
    """Remove the texts that cover an earlier one or the middle of a point, and the lines from these."""
    kept: list[Any] = []
    for text in texts:
        box = text.get_window_extent()
        over_text = any(box.overlaps(other.get_window_extent()) for other in kept)
        if not over_text and not any(box.contains(*mark) for mark in marks):
            kept.append(text)
            continue
        for line in lines:
            if line.patchA is text:
                line.remove()
        text.remove()
    return kept
