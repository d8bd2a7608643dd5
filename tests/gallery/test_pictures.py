"""What is drawn: pixels where they belong, differences amplified alike, every kind of output read."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fxcache.benchmark.errors import PipelineError
from fxcache.config import as_config
from fxcache.gallery.comparison import comparison, factor
from fxcache.gallery.decisions import decisions
from fxcache.gallery.likeness import likeness
from fxcache.gallery.media import Media, media_of
from fxcache.gallery.run import Candidate, Drawn
from fxcache.gallery.sheet import LABEL, LETTERS, MARGIN, Line, sheet
from fxcache.runtime.stats import ContextStats, SegmentStats

RED = np.full((1, 8, 8, 3), (200, 0, 0), dtype=np.uint8)


def drawn(name: str, *media: Media, plain: Drawn | None = None) -> Drawn:
    segment = SegmentStats((False, True, False), {1: 0.05, 2: 0.3})
    contexts = {} if plain is None else {"cond": ContextStats((segment,), 20, 10, 0)}
    each = [] if plain is None else [likeness(a, b) for a, b in zip(plain.media, media, strict=True)]
    config = None if plain is None else as_config("F1B0_W1M0MC1_T0O1_R0.1")
    return Drawn(Candidate(name, {}, config), media, 1.0, 1.0, contexts, each)


@pytest.mark.parametrize(
    ("output", "kind", "shape"),
    [
        (SimpleNamespace(images=[Image.new("L", (6, 4))]), "picture", (1, 4, 6, 3)),
        (SimpleNamespace(images=torch.rand(2, 3, 4, 6)), "picture", (1, 4, 6, 3)),
        (SimpleNamespace(images=np.zeros((2, 4, 6, 1), np.uint8)), "picture", (1, 4, 6, 3)),
        (SimpleNamespace(frames=[[Image.new("RGB", (6, 4))] * 5]), "clip", (5, 4, 6, 3)),
        (SimpleNamespace(frames=torch.rand(1, 5, 3, 4, 6)), "clip", (5, 4, 6, 3)),
        (SimpleNamespace(frames=np.zeros((1, 5, 4, 6, 3))), "clip", (5, 4, 6, 3)),
        (SimpleNamespace(audios=torch.rand(1, 2, 9)), "sound", (2, 9)),
        (SimpleNamespace(audios=np.zeros((1, 9))), "sound", (1, 9)),
    ],
)
def test_outputs(output: SimpleNamespace, kind: str, shape: tuple[int, ...]) -> None:
    found = media_of(output, "here")
    assert (found[0].kind, found[0].data.shape) == (kind, shape)


def test_an_output_of_something_else_is_refused() -> None:
    with pytest.raises(PipelineError, match="nothing to look at"):
        media_of(SimpleNamespace(text="a story"), "here")


def test_a_sheet_shows_every_pixel_where_it_belongs(tmp_path: Path) -> None:
    rows = [Line(("one",), [RED[0], RED[0]]), Line(("two",), [RED[0], 255 - RED[0]])]
    with Image.open(sheet("title", rows, (80, 80), tmp_path / "sheet.png")) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    left = MARGIN + LABEL
    assert (pixels[:, left + 40] == (200, 0, 0)).all(1).sum() == 2 * 80  # two pictures beneath each other
    assert (pixels[:, left + 40 + 86] == (55, 255, 255)).all(1).sum() == 80
    assert (pixels[:, left - 2 : left] == 255).all()  # no label reaches the pictures


def test_the_longest_line_of_a_label_stays_beside_the_pictures(tmp_path: Path) -> None:
    label = ("W" * (LETTERS // 2) + "_" + "8" * LETTERS, 'F1B0_D{"name":"magcache","ratios":[1.0,1.0]}')
    with Image.open(sheet("title", [Line(label, [RED[0]])], (80, 80), tmp_path / "sheet.png")) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert (pixels[:, MARGIN + LABEL - 1] == 255).all()


def test_all_differences_are_amplified_alike() -> None:
    plain = drawn("plain", Media("picture", RED))
    near = drawn("near", Media("picture", RED + 1), plain=plain)
    far = drawn("far", Media("picture", RED + 30), plain=plain)
    assert factor(plain, [near]) == 32 and factor(plain, [near, far]) == 8


def test_equal_is_said_and_not_a_number() -> None:
    assert likeness(Media("picture", RED), Media("picture", RED)).psnr is None
    assert likeness(Media("picture", RED), Media("picture", RED)).ssim is None  # 8 pixels a side are too few


def test_a_clip_has_a_sheet_for_each_prompt(tmp_path: Path) -> None:
    clip = Media("clip", RED.repeat(12, 0))
    plain = drawn("plain", clip, clip)
    one = drawn("F1B0", clip, Media("clip", clip.data + 3), plain=plain)
    files = comparison("title", ["a", "b"], plain, [one], 0.0, tmp_path / "c.png")
    assert [file.name for file in files] == ["c.png", "c-1.png"]
    assert one.likeness.psnr == one.each[1].psnr and one.each[0].psnr is None


def test_a_setting_without_a_cache_is_drawn_too(tmp_path: Path) -> None:
    plain = drawn("plain", Media("picture", RED))
    none = Drawn(Candidate("C0_Q0_NONE", {}, as_config("C0_Q0_NONE")), plain.media, 1.0, 1.0, {}, ())
    assert none.speedup == 1 and decisions("title", [none], tmp_path / "d.png").stat().st_size > 0


def test_hits_are_blue_and_the_threshold_red(tmp_path: Path) -> None:
    plain = drawn("plain", Media("picture", RED))
    one = drawn("F1B0", Media("picture", RED + 1), plain=plain)
    with Image.open(decisions("title", [one], tmp_path / "d.png")) as picture:
        pixels = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}  # type: ignore[union-attr]
    assert {(0xA8, 0xCB, 0xF7), (0xE6, 0xE8, 0xEB), (0xC4, 0x32, 0x1C)} <= pixels
