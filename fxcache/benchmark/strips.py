"""Strips of pictures: a setting's, and how they differ from the uncached ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageChops

from .folder import RunFolder
from .sweep import BASELINE

COUNT = 10
SIDE = 96  # pixels of a thumbnail; smaller pictures are enlarged by whole factors
GAP = 2
AMPLIFIED = 4  # times the difference is drawn stronger


def strip(folder: RunFolder, setting: str, indices: Sequence[int]) -> Image.Image:
    """Pictures of a setting side by side."""
    return _join([_open(folder.picture(setting, i)) for i in indices])


def difference(folder: RunFolder, setting: str, indices: Sequence[int]) -> Image.Image:
    """The absolute difference to the uncached pictures, amplified: black is alike."""
    pairs = [(_open(folder.picture(setting, i)), _open(folder.picture(BASELINE.name, i))) for i in indices]
    differences = [ImageChops.difference(a, b) for a, b in pairs]
    return _join([d.point([min(AMPLIFIED * level, 255) for level in range(256)] * 3) for d in differences])


def gallery(folder: RunFolder, settings: Sequence[str], indices: Sequence[int]) -> Image.Image:
    """Every setting's strip above its difference, in one picture; the baseline has no difference."""
    rows = []
    for name in settings:
        rows.append(strip(folder, name, indices))
        if name != BASELINE.name:
            rows.append(difference(folder, name, indices))
    sheet = Image.new("RGB", (rows[0].width, sum(r.height + GAP for r in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + GAP
    return sheet


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        picture = image.convert("RGB")
    if max(picture.size) <= SIDE:
        factor = SIDE // max(picture.size)
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    picture.thumbnail((SIDE, SIDE))
    return picture


def _join(pictures: Sequence[Image.Image]) -> Image.Image:
    width = sum(p.width + GAP for p in pictures) - GAP
    row = Image.new("RGB", (width, max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + GAP
    return row
