"""A sheet of pictures with labels, composed pixel by pixel."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

DPI = 100
GAP, MARGIN = 6, 16
LINE, CAPTION = 19, 20  # pixels of height: a line of a label, a caption
SIZE, SMALL = 10.0, 8.5  # points
LABEL = 250  # pixels of width beside a row
LETTERS = 24  # of a label's line
PARTS = re.compile(rf"[^_,\s]{{1,{LETTERS - 1}}}[_,\s]*")  # between which a label may break
ASCENT = 1.1  # pixels from a line's top to its baseline, for each point of its size
INK, FAINT = "#1f2328", "#59636e"


@dataclass(frozen=True)
class Line:
    """Pictures in a row (or column): label stands beside it (above it), a caption above each picture."""

    label: tuple[str, ...]
    pictures: Sequence[np.ndarray]
    captions: Sequence[str] = ()


def fitted(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Enlarged by a whole factor, so that pixels stay squares, or shrunk smoothly, to fit a cell.

    Example:
        >>> import numpy
        >>> from fxcache.gallery.sheet import fitted
        >>> fitted(numpy.zeros((28, 28, 3), dtype=numpy.uint8), 120, 120).shape
        (112, 112, 3)
    """
    high, wide = picture.shape[:2]
    scale = min(width / wide, height / high)
    if scale >= 1:
        return picture.repeat(int(scale), 0).repeat(int(scale), 1)
    size = (max(round(wide * scale), 1), max(round(high * scale), 1))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def sheet(title: str, lines: Sequence[Line], cell: tuple[int, int], out: Path, upright: bool = False) -> Path:
    """Draw lines as rows with their labels at the left, or `upright`, as columns with them above.

    Args:
        cell: width and height that a picture has at most.
    """
    shown = [
        Line(_wrapped(row.label), [fitted(p, *cell) for p in row.pictures], row.captions) for row in lines
    ]
    return (_columns if upright else _rows)(title, shown, out)


def _rows(title: str, lines: Sequence[Line], out: Path) -> Path:
    wide = max(p.shape[1] for row in lines for p in row.pictures)
    count = max(len(row.pictures) for row in lines)
    heights = [_height(row) for row in lines]
    width = 2 * MARGIN + LABEL + count * (wide + GAP)
    canvas = _Canvas(width, 2 * MARGIN + LINE + sum(heights), title)
    top = MARGIN + LINE + GAP
    for row, height in zip(lines, heights, strict=True):
        above = CAPTION if any(row.captions) else 0
        canvas.label(row.label, MARGIN, top + above)
        for i, picture in enumerate(row.pictures):
            left = MARGIN + LABEL + i * (wide + GAP)
            canvas.picture(picture, left, top + above)
            if above:
                canvas.text(row.captions[i], left + picture.shape[1] / 2, top + 2, SMALL, FAINT, middle=True)
        top += height
    return canvas.save(out)


def _columns(title: str, lines: Sequence[Line], out: Path) -> Path:
    wide = max(max(p.shape[1] for row in lines for p in row.pictures), LABEL)
    above = max(len(row.label) for row in lines) * LINE + GAP
    rows = [max(row.pictures[i].shape[0] for row in lines) for i in range(len(lines[0].pictures))]
    captions = CAPTION if any(any(row.captions) for row in lines) else 0
    height = 2 * MARGIN + LINE + GAP + above + sum(h + GAP + captions for h in rows)
    canvas = _Canvas(2 * MARGIN + len(lines) * (wide + GAP) - GAP, height, title)
    for i, row in enumerate(lines):
        left, top = MARGIN + i * (wide + GAP), MARGIN + LINE + GAP
        canvas.label(row.label, left, top)
        top += above
        for j, picture in enumerate(row.pictures):
            if any(row.captions):
                canvas.text(row.captions[j], left + picture.shape[1] / 2, top + 2, SMALL, FAINT, middle=True)
            canvas.picture(picture, left, top + captions)
            top += rows[j] + GAP + captions
    return canvas.save(out)


def _height(row: Line) -> int:
    pictures = max(p.shape[0] for p in row.pictures)
    return max(pictures, len(row.label) * LINE) + (CAPTION if any(row.captions) else 0) + GAP


def _wrapped(label: Sequence[str]) -> tuple[str, ...]:
    """Long settings break after an underscore or a comma where they can."""
    found: list[str] = []
    for text in label:
        parts = PARTS.findall(text)
        line = ""
        for part in parts:
            if line and len(line + part) > LETTERS:
                found.append(line)
                line = ""
            line += part
        found.append(line)
    return tuple(found)


class _Canvas:
    def __init__(self, width: int, height: int, title: str) -> None:
        self._height = height
        self._figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
        FigureCanvasAgg(self._figure)
        self.text(title, MARGIN, MARGIN - 4, SIZE + 1, INK, bold=True)

    def text(
        self,
        text: str,
        left: float,
        top: float,
        size: float,
        color: str,
        *,
        middle: bool = False,
        bold: bool = False,
    ) -> None:
        self._figure.text(
            left / self._figure.bbox.width,
            1 - (top + ASCENT * size) / self._height,
            text.replace("$", r"\$"),
            size=size,
            color=color,
            ha="center" if middle else "left",
            va="baseline",
            weight="bold" if bold else "normal",
        )

    def label(self, lines: Sequence[str], left: float, top: float) -> None:
        for i, line in enumerate(lines):
            self.text(line, left, top + i * LINE, SIZE, INK if i == 0 else FAINT, bold=i == 0)

    def picture(self, picture: np.ndarray, left: int, top: int) -> None:
        self._figure.figimage(picture, left, self._height - top - picture.shape[0])

    def save(self, out: Path) -> Path:
        out.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # a prompt's script
            self._figure.savefig(out, dpi=DPI)
        return out
