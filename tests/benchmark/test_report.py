"""`fxcache bench report`: the document's tables, the plots, one page that needs no network."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from bench import screenshot
from fxcache.benchmark.folder import RunFolder
from fxcache.benchmark.labels import add_labels, short_names
from fxcache.benchmark.latency import latency_doubt
from fxcache.benchmark.other_load import watch_others
from fxcache.benchmark.plots import pareto_front, plots
from fxcache.benchmark.results import Results, load_results
from fxcache.benchmark.strips import difference
from fxcache.benchmark.tables import tables
from fxcache.benchmark.timeline import Timeline, svg
from tests.benchmark.test_metrics import CACHED, bench, make_run


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
    assert picture.count("<circle") == 2 and picture.count('class="hit"') == 2
    assert "step 3: a hit in 25%" in picture and ">0.2<" in picture
    assert "step 1: computed" in picture


def test_a_timeline_without_diffs_has_bars_only() -> None:
    picture = svg(Timeline(4, {}, (0.0, 1.0, 0.0, 1.0), 0.0))
    assert picture.count('class="hit"') == 2 and "polyline" not in picture and "limit" not in picture


def test_a_threshold_far_away_leaves_the_line_its_height() -> None:
    picture = svg(Timeline(2, {0: 0.1, 1: 0.2}, (1.0, 1.0), 1000.0))
    assert "limit" not in picture and ">0.22<" in picture


def test_the_page_needs_nothing_else(reported: RunFolder) -> None:
    page = (reported.report / "index.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "http" not in re.sub(r"data:[^\"]+|xmlns(:xlink)?=\"[^\"]+\"", "", page)
    assert page.count("<section ") == 2 and page.count("data:image/webp") == 4
    assert f"fxcache bench report --run {reported.root}" in page
    assert "CLIP_SCORE (name a folder of a CLIP model" in page


def test_prompts_are_escaped_in_the_page(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", model="/models/x", texts=("<script>alert(1)</script>", "b"))
    assert bench("report", "--run", folder.root).exit_code == 0
    assert "<script>alert" not in (folder.report / "index.html").read_text()


def test_names_lose_what_they_have_in_common() -> None:
    names = ["F1B0_W4M0MC3_T1O1_R0.12", "F1B0_W4M0MC3_T1O1_R0.2_E", "2x", "P28K11"]
    assert list(short_names(names).values()) == ["R0.12", "R0.2 _E", "2x", "P28K11"]
    assert short_names(names[:1]) == {names[0]: names[0]}


def test_labels_of_a_crowd_do_not_overlap() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3))
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)).tolist()
    named = {f"a setting, {i}": (x, y) for i, (x, y) in enumerate(places)}
    kept = add_labels(axes, named, list(named.values()), size=8.0)
    assert 5 < len(kept) < len(named)
    boxes = [text.get_window_extent() for text in kept]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    marks = axes.transData.transform(places)
    assert not any(box.contains(*mark) for box in boxes for mark in marks)
    figure.draw_without_rendering()  # no line leads to a label that is gone


def changed(results: Results, **fields: Any) -> Results:
    """The results with other records and seconds in the cached row."""
    base, cached = results.rows
    records = [dataclasses.replace(r, others=fields.get("others")) for r in base.records]
    rows = (
        dataclasses.replace(base, records=records),
        dataclasses.replace(cached, records=records, seconds=fields.get("seconds", 0.4)),
    )
    return dataclasses.replace(results, rows=rows)


def test_latency_is_plotted_where_it_was_measured_alone(reported: RunFolder) -> None:
    results = load_results(reported)
    alone = changed(results, others=0.02, seconds=0.6)  # slower, and it is known that this is so
    assert latency_doubt(alone) is None and "psnr-latency" in [p.name for p in plots(alone)]
    busy = changed(results, others=1.4)
    assert latency_doubt(busy) == "other processes kept 1.4 cores busy while it was measured"
    assert [p.name for p in plots(busy)] == ["psnr-flops", "fid-flops"]


def test_a_row_that_does_less_and_takes_longer_gives_a_busy_machine_away(reported: RunFolder) -> None:
    results = load_results(reported)
    assert latency_doubt(changed(results)) is None
    doubt = latency_doubt(changed(results, seconds=0.6))
    assert doubt == f"{CACHED} took longer than the plain model and did less"


def test_others_that_work_are_seen() -> None:
    if not Path("/proc/stat").is_file():
        pytest.skip("no /proc here")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        try:
            time.sleep(0.3)
            watched = watch_others(torch.device("cpu"))
            time.sleep(1.0)
            found = watched()
        finally:
            other.kill()
    assert found is not None and found > 0.1
    assert watch_others(torch.device("meta"))() is None


def test_the_page_says_why_latency_is_not_plotted(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    records = folder.record_folder / "0.jsonl"
    records.write_text(records.read_text().replace('"others":null', '"others":1.0'))
    for words in (("metrics",), ("report",)):
        result = bench(*words, "--run", folder.root)
        assert result.exit_code == 0, result.output
    assert "latency was not measured alone" in result.output
    page = (folder.report / "index.html").read_text()
    assert "other processes kept 1.0 cores busy" in page and "PSNR against latency" not in page
    assert not (folder.report / "psnr-latency.png").exists()


@pytest.fixture
def page(reported: RunFolder) -> str:
    if screenshot.chromium() is None:
        pytest.fail("no Chromium on this machine: apt-get install chromium")
    return (reported.report / "index.html").read_text()


@pytest.mark.browser
def test_a_browser_sorts_the_tables(page: str) -> None:
    heads = 'document.querySelectorAll(".sortable th")'
    click = f"{heads}[1].click(); {heads}[1].click(); document.getElementById('both').click();"
    dom = screenshot.run(screenshot.with_script(page, click), "--dump-dom")
    assert 'aria-sort="ascending"' in dom and 'class="both"' in dom
    body = dom[dom.index('aria-sort="ascending"') :]
    assert body.index(f"<td>{CACHED}</td>") < body.index("<td>C0_Q0_NONE</td>")  # lowest PSNR first


@pytest.mark.browser
def test_pointing_at_a_setting_shows_its_pictures(page: str) -> None:
    point = """
        const point = document.querySelector('.wide .point[data-row="1"]');
        const box = point.getBoundingClientRect();
        const at = { clientX: box.left + 4, clientY: box.top + 4, bubbles: true, pointerType: "mouse" };
        point.dispatchEvent(new PointerEvent("pointermove", at));
        const strip = document.querySelector("#row-1 .strip img");
        const same = card.querySelector("img").src === strip.src;
        document.title = [card.hidden, card.querySelector("strong").textContent, same].join(" ");
        """
    dom = screenshot.run(screenshot.with_script(page, point), "--dump-dom", "--window-size=1100,1600")
    assert f"<title>false {CACHED} true</title>" in dom


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1080])
def test_the_page_fits_a_phone_and_a_desktop(page: str, width: int) -> None:
    measure = "parent.document.title = document.documentElement.scrollWidth + ' of ' + innerWidth"
    framed = screenshot.framed(screenshot.with_script(page, measure), width, 800)
    assert f"<title>{width} of {width}</title>" in screenshot.run(framed, "--dump-dom")


@pytest.mark.browser
def test_the_page_is_dark_for_who_prefers_it(page: str) -> None:
    for dark, low, high in ((False, 200, 256), (True, 0, 60)):
        picture = screenshot.screenshot(page, 800, dark, height=900)
        assert picture.size == (800, 900)
        assert len(picture.getcolors(maxcolors=2**20) or []) > 200
        level = picture.convert("L").getpixel((2, 2))
        assert isinstance(level, int) and low <= level < high
