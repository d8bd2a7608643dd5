"""`python -m bench.gpu` runs to its end without a GPU, and what fails on one would be a row that says so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import fxcache
from bench.gpu.__main__ import main
from bench.gpu.clock import Clock, HostEvent, race
from bench.gpu.cuda_graphs import _pooled, counted, replays
from bench.gpu.devices import compare, places_of
from bench.gpu.engines import engines
from bench.gpu.modes import Bench
from bench.gpu.report import tables
from bench.gpu.rows import Cells, Check, CheckFailed, NotHere, Row, Section
from bench.gpu.running import run as run_sections
from bench.gpu.sections import SECTIONS
from bench.gpu.settings import SETTINGS, STEPS
from bench.gpu.setup import Setup
from bench.gpu.subjects import Subject, short
from bench.gpu.trajectories import Run, largest_error, require_alike, run
from fxcache.errors import TensorRTMissingError

ROOT = Path(__file__).parents[2]
PATIENCE = 3600  # seconds: on two idle cores it takes a few minutes at most
CPU = Setup(torch.device("cpu"), quick=True, backend="eager")


def test_without_a_gpu_it_runs_to_its_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.gpu", "--device", "cpu", "--quick", "--out", str(tmp_path)]
    command += ["--budget", str(PATIENCE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [written] = tmp_path.glob("cpu-*-quick.json")
    found = json.loads(written.read_text())
    status = {name: section["status"] for name, section in found["sections"].items()}
    assert list(status) == list(SECTIONS) and found["failed"] == []
    assert status == {name: "refused" if name == "tensorrt" else "passed" for name in SECTIONS}
    rows = [row for section in found["sections"].values() for row in section["rows"]]
    refused = [row["name"] for row in rows if row["status"] == "refused"]
    assert all("reduce-overhead" in n or "recorded" in n or "cache-dit" in n or "built" in n for n in refused)
    timed = {row["name"]: row["cells"] for row in rows if "x plain" in row["cells"]}
    assert timed["plain, eager"]["x plain"] == timed["minimum, compiled"]["x minimum"] == 1
    assert {"hit, eager", "miss, fused", "planned hit, fused", "hit, FirstBlockCache, compiled"} <= set(timed)
    assert sections_of(written.with_suffix(".md")) == list(SECTIONS)
    assert "passed" in done.stdout and "modes: nothing cached" in done.stderr


def sections_of(markdown: Path) -> list[str]:
    """The names of the sections of a report whose tables all have as many cells in every line."""
    names: list[str] = []
    width = 0
    for line in markdown.read_text().splitlines():
        if line.startswith("## "):
            names.append(line[3:].partition(":")[0])
        cells = line.count("|") - 1 if line.startswith("|") else 0
        assert cells == width or not cells or not width, line
        width = cells
    return names


def sound() -> Cells:
    return {"error": 0.5}


def broken() -> Cells:
    raise CheckFailed("not the model's", {"error": 3.0})


def crashing() -> Cells:
    raise RuntimeError("a | b\nc")


def absent() -> Cells:
    raise NotHere("no such card")


def sections(*checks: Callable[[], Cells], seconds: float = 0.0) -> Callable[[Setup], Iterator[Check]]:
    return lambda setup: iter([Check(check.__name__, check, seconds) for check in checks])


def test_a_check_that_fails_is_a_row_and_the_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def unbuilt(setup: Setup) -> Iterator[Check]:
        yield Check("first", sound)
        raise ValueError("no model")

    every = {"one": sections(broken, sound, crashing, absent), "two": unbuilt, "three": sections(sound)}
    assert main(["--device", "cpu", "--quick", "--out", str(tmp_path)], every) == 1
    [written] = tmp_path.glob("*.json")
    found = json.loads(written.read_text())
    assert found["failed"] == ["one: broken", "one: crashing", "two: set up"]
    rows = {row["name"]: row for row in found["sections"]["one"]["rows"]}
    assert rows["broken"]["cells"] == {"error": 3.0} and rows["broken"]["note"] == "not the model's"
    assert "in crashing" in rows["crashing"]["traceback"]
    assert rows["crashing"]["note"] == "RuntimeError: a | b\nc"
    assert rows["absent"]["status"] == "refused" and rows["sound"]["status"] == "passed"
    assert found["sections"]["three"]["status"] == "passed"
    assert sections_of(written.with_suffix(".md")) == ["one", "two", "three"]
    assert "failed: one: broken; one: crashing; two: set up" in " ".join(capsys.readouterr().out.split())


def test_only_what_was_asked_for_is_run(tmp_path: Path) -> None:
    every = {"one": sections(broken), "two": sections(sound)}
    assert main(["--device", "cpu", "--only", "two", "--out", str(tmp_path)], every) == 0
    [written] = tmp_path.glob("*.json")
    assert list(json.loads(written.read_text())["sections"]) == ["two"]


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is one")
def test_a_device_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda"], {}) == 2 and main([], {}) == 2
    assert "torch sees no cuda" in capsys.readouterr().err


def test_what_does_not_fit_the_budget_is_said() -> None:
    said: list[Row] = []
    every = {"one": sections(sound), "two": sections(broken, seconds=50)}
    found = run_sections(every, CPU, 40, lambda _, row: said.append(row))
    assert [s.status for s in found] == ["passed", "left out"]
    assert said[-1].note.startswith("left out: time (50 s wanted")


def test_rows_that_say_other_things_begin_another_table() -> None:
    rows = (Row("a", "passed", {"x": 1}), Row("b", "failed", note="why"), Row("c", "passed", {"y": 2.0}))
    assert list(tables(Section("s", rows, 0.0))) == [
        (["", "", "x", "why"], [["a", "passed", "1", ""], ["b", "failed", "", "why"]]),
        (["", "", "y"], [["c", "passed", "2"]]),
    ]


class Event(HostEvent):
    """A device's, as far as the race knows: made with the time that its clock shows."""

    now = 0.0

    def record(self) -> None:
        self._at = Event.now


def test_events_are_read_after_the_device_has_stopped() -> None:
    waits: list[float] = []

    def model(cost: float) -> Callable[..., None]:
        def step(step: int) -> None:
            Event.now += cost if step >= 5 else 100  # the first do not count

        return step

    clock = Clock(Event, lambda: waits.append(Event.now))
    times = race(
        {"a": model(0.25), "b": model(0.75)}, lambda i: {"step": i}, rounds=10, warmup=5, clock=clock
    )
    assert times["a"].device == pytest.approx(250) and times["b"].device == pytest.approx(750)
    assert len(waits) == 2 * 2 * 3  # around each burst of two models


def test_calls_of_methods_are_counted() -> None:
    class Graph:
        def replay(self, times: int) -> int:
            return times

    method = Graph.replay
    with counted(Graph, "replay") as calls:
        assert Graph().replay(2) + Graph().replay(3) == 5
    assert calls == {"replay": 2} and Graph.replay is method


@pytest.fixture(scope="module")
def subject() -> Subject:
    return short(CPU)


@pytest.fixture(scope="module")
def expected(subject: Subject) -> Run:
    return run(fxcache.transform(subject.model, SETTINGS[0].config()), subject)


def test_a_model_that_is_never_replayed_fails(subject: Subject, expected: Run) -> None:
    pooled = fxcache.transform(subject.model, SETTINGS[0].config()).lowered(_pooled)
    with pytest.raises(CheckFailed, match=f"fewer replays than the {STEPS} steps") as caught:
        replays(pooled, expected, subject)
    assert caught.value.cells["recorded"] == "0, 0, 0, 0, 0" and caught.value.cells["error"] == 0


def test_wrong_numbers_of_a_compiler_fail(subject: Subject) -> None:
    def wrong(graph: Any, inputs: Any) -> Callable[..., Any]:
        def spoiled(value: Any) -> Any:
            return 1.01 * value if isinstance(value, torch.Tensor) and value.dim() == 3 else value

        return lambda *values: tuple(map(spoiled, graph.forward(*values)))

    bench = Bench(subject, Setup(CPU.device, True, wrong))
    with pytest.raises(CheckFailed, match=r"error .* over 0\.001"):
        bench.check(SETTINGS[0], "fused").run()


def test_other_hits_and_nan_fail(expected: Run) -> None:
    require_alike(expected, expected, torch.float32)
    with pytest.raises(CheckFailed, match="hits"):
        require_alike(Run(expected.outputs, {"cond": (True,) * STEPS}), expected, torch.float32)
    spoiled = [torch.full_like(t, float("nan")) if i == 3 else t for i, t in enumerate(expected.outputs)]
    assert largest_error(spoiled, expected.outputs) != largest_error(spoiled, expected.outputs)
    with pytest.raises(CheckFailed, match="error nan"):
        require_alike(Run(spoiled, expected.hits), expected, torch.float32)


def test_one_device_is_not_two(subject: Subject) -> None:
    assert places_of(torch.device("cpu")) == ["cpu", "cpu"]
    with pytest.raises(NotHere, match="two are wanted"):
        compare(subject, SETTINGS[0], ["cuda:0"])


@pytest.mark.parametrize("error", [0.01, 0.1, float("nan")])
def test_what_tensorrt_found_is_judged_row_by_row(error: float) -> None:
    row = {"backend": "tensorrt", "error": 0.01, "same_hits": True, "computed_ms": 2.0}
    report = {"rows": [row], "errors": {"package": error}, "tolerance": 0.05, "without_refit": 0.2}
    [found] = run_sections({"tensorrt": lambda s: engines(s, lambda *_: report)}, CPU, 1000, lambda *_: None)
    assert [r.status for r in found.rows] == ["passed", "passed", "passed" if error == 0.01 else "failed"]


def test_without_tensorrt_that_is_said() -> None:
    def verify(*_: object) -> dict[str, Any]:
        raise TensorRTMissingError("there is none")

    [found] = run_sections({"tensorrt": lambda s: engines(s, verify)}, CPU, 1000, lambda *_: None)
    assert [r.status for r in found.rows] == ["refused"] and "not installed" in found.rows[0].note
