"""`fxcache bench report`: the document's tables, the plots, one page that needs no network."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from fxcache.benchmark.folder import RunFolder
from fxcache.benchmark.plots import pareto_front
from fxcache.benchmark.results import load_results
from fxcache.benchmark.strips import difference
from fxcache.benchmark.tables import tables
from fxcache.benchmark.timeline import Timeline, svg
from tests.benchmark.test_metrics import CACHED, bench, make_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = make_run(tmp_path_factory.mktemp("report") / "run")
    for words in (("metrics",), ("report",)):
        result = bench(*words, "--run", folder.root)
        assert result.exit_code == 0, result.output
    return folder


def test_tables_have_the_documents_form(reported: RunFolder) -> None:
    text = (reported.report / "tables.md").read_text()
    assert "| Latency(s) | Latency(s)(↑) | GFLOPs | GFLOPs(↑) |" in text
    assert "| C0_Q0_NONE | 58.92 |" in text
    row = next(line for line in text.splitlines() if line.startswith(f"| {CACHED}"))
    assert row.endswith("| 2.0 of 4 | 0.500 | 1.00 | 4.00 | 2.00 |")
    assert "| 34.15 |" in row


def test_a_measure_of_the_document_gets_a_table_of_its_own(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    values = {"C0_Q0_NONE": {"clip_score": 32.9217}, CACHED: {"clip_score": 33.0745}}
    folder.save_metrics({"settings": values, "absent": {}})
    (table, *_) = tables(load_results(folder))
    assert table.title == "CLIP Score (↑)"
    assert table.heads[:2] == ("Config", "CLIP_SCORE")
    assert [row[:2] for row in table.rows] == [("C0_Q0_NONE", "32.9217"), (CACHED, "33.0745")]


def test_a_report_without_metrics_has_costs_only(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    result = bench("report", "--run", folder.root)
    assert result.exit_code == 0, result.output
    assert "no metrics yet; measure them with: fxcache bench metrics" in result.output
    assert "PSNR" not in (folder.report / "tables.md").read_text()


def test_plots_and_strips_are_pictures(reported: RunFolder) -> None:
    for name in ("psnr-flops.png", "psnr-latency.png", "fid-flops.png", "strips.webp"):
        with Image.open(reported.report / name) as image:
            colours = image.convert("RGB").getcolors(maxcolors=2**20)
        assert colours is not None and len(colours) > 10, name


def test_the_difference_is_amplified_and_black_where_alike(reported: RunFolder) -> None:
    assert difference(reported, "C0_Q0_NONE", [0]).getextrema() == ((0, 0),) * 3
    assert difference(reported, CACHED, [0]).getextrema() == ((20, 20),) * 3  # 4 x 5 levels


def test_pareto_front_keeps_what_nothing_beats() -> None:
    points = [(3.0, 5.0), (1.0, 1.0), (2.0, 4.0), (2.0, 3.0), (4.0, 4.5)]
    assert pareto_front(points, best=1) == [(1.0, 1.0), (2.0, 4.0), (3.0, 5.0)]
    assert pareto_front(points, best=-1) == [(1.0, 1.0)]


def test_timeline_marks_hits_diffs_and_threshold() -> None:
    picture = svg(Timeline(4, {2: 0.1, 3: 0.3}, (0.0, 0.0, 1.0, 0.25), 0.2))
    assert picture.count("<circle") == 2 and picture.count("<rect") == 2
    assert "step 3: a hit in 25%" in picture and ">0.2<" in picture


def test_the_page_needs_nothing_else(reported: RunFolder) -> None:
    page = (reported.report / "index.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "http" not in re.sub(r"data:[^\"]+", "", page)
    assert page.count("<section>") == 2 and page.count("data:image/webp") == 4
    assert f"fxcache bench report --run {reported.root}" in page
    assert "CLIP_SCORE (name a folder of a CLIP model" in page


def test_prompts_are_escaped_in_the_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", model="/models/x", texts=("<script>alert(1)</script>", "b"))
    assert bench("report", "--run", folder.root).exit_code == 0
    assert "<script>alert" not in (folder.report / "index.html").read_text()


@pytest.mark.browser
def test_a_browser_sorts_and_shows_the_page(reported: RunFolder, tmp_path: Path) -> None:
    """The real page in a real Chromium: a click sorts a table, and the screenshot is not blank."""
    if CHROMIUM is None:
        pytest.fail("no Chromium on this machine: apt-get install chromium")
    page = (reported.report / "index.html").read_text()
    heads = 'document.querySelectorAll(".sortable th")'
    click = (
        f"<script>{heads}[1].click(); {heads}[1].click(); document.getElementById('both').click();</script>"
    )
    (tmp_path / "page.html").write_text(page.replace("</body>", click + "</body>"))
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        f"--disable-component-update --disable-sync --window-size=1100,1600 "
        f"--user-data-dir={tmp_path / 'profile'}"
    ).split()
    url = (tmp_path / "page.html").as_uri()
    dom = subprocess.run(
        [CHROMIUM, *flags, "--dump-dom", url], capture_output=True, text=True, timeout=120
    ).stdout
    assert 'aria-sort="ascending"' in dom and 'class="both"' in dom
    body = dom[dom.index('aria-sort="ascending"') :]
    assert body.index(f"<td>{CACHED}</td>") < body.index("<td>C0_Q0_NONE</td>")  # lowest PSNR first
    shot = tmp_path / "shot.png"
    subprocess.run(
        [CHROMIUM, *flags, f"--screenshot={shot}", url], capture_output=True, timeout=120, check=True
    )
    with Image.open(shot) as image:
        assert image.size == (1100, 1600)
        assert len(image.convert("RGB").getcolors(maxcolors=2**22) or []) > 200
