"""Commands on several processes: context parallelism within a team, data parallelism across."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fxcache.benchmark.folder import RunFolder
from fxcache.benchmark.quality.pictures import read
from fxcache.cli import main
from tests.behaviour.processes.launch import torchrun
from tests.tiny_pipelines import save_flux

CACHED = "F1B0_W2M0MC1_T0O1_R1000"
STEPS = ("--steps", "4")
SMALL = ("--arg", "height=16", "--arg", "width=16", "--arg", "max_sequence_length=16")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_flux(tmp_path_factory.mktemp("models") / "flux")


def bench_words(model: Path, out: Path) -> list[str]:
    (out.parent / "sweep.yaml").write_text(f"settings: [C0_Q0_NONE, {CACHED}]\n")
    (out.parent / "prompts.txt").write_text("a red cat\na blue dog\n")
    files = ("--sweep", str(out.parent / "sweep.yaml"), "--prompts", str(out.parent / "prompts.txt"))
    return ["bench", "run", "--model", str(model), *files, *STEPS, *SMALL, "--out", str(out)]


def sample_words(model: Path, out: Path) -> list[str]:
    words = ("--model", str(model), "--config", CACHED, "--prompt", "a red cat", "--out", str(out))
    return ["sample", *words, *STEPS, *SMALL]


def same_run(together: RunFolder, alone: RunFolder) -> None:
    found, expected = together.records(), alone.records()
    assert found.keys() == expected.keys() and len(found) == 6  # and of fewer plain steps
    for key, record in found.items():
        steps = [list(c.cached_steps) for c in record.contexts.values()]
        assert steps == [list(c.cached_steps) for c in expected[key].contexts.values()]
        assert steps == ([[2]] if key[0] == CACHED else [])
        assert (read(together.picture(*key)) - read(alone.picture(*key))).abs().max() <= 1
    lines = [line for file in together.record_folder.iterdir() for line in file.read_text().splitlines()]
    assert len(lines) == 6  # of each picture one process of its team wrote


def test_two_processes_draw_each_picture_of_a_benchmark_together(model: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, bench_words(model, tmp_path / "alone"))
    assert result.exit_code == 0, result.output
    words = [*bench_words(model, tmp_path / "together"), "--ulysses", "2", "--device", "cpu"]
    said = torchrun("command", 2, words, tmp_path, timeout=300)
    together = RunFolder(tmp_path / "together")
    same_run(together, RunFolder(tmp_path / "alone"))
    assert [file.name for file in together.record_folder.iterdir()] == ["0.jsonl"]
    about = together.about()
    assert "2 processes, 2 to a picture" in about["device"]
    assert "--ulysses 2" in about["command"] and said.count("made by:") == 1


@pytest.mark.full
def test_two_processes_draw_each_sample_together(model: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, sample_words(model, tmp_path / "one"))
    assert result.exit_code == 0, result.output
    words = [*sample_words(model, tmp_path / "two"), "--ulysses", "2", "--device", "cpu"]
    said = torchrun("command", 2, words, tmp_path, timeout=300)
    one, two = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two"))
    first, second = (found["settings"][0]["contexts"]["cond"] for found in (one, two))
    assert first["cached_steps"] == second["cached_steps"] == [2]
    assert "--ulysses 2" in two["command"] and said.count("and every sample at its own size") == 1
    for name in ("plain", CACHED):
        files = [next((tmp_path / run / "samples").glob(f"*{name}/*.png")) for run in ("one", "two")]
        assert (read(files[0]) - read(files[1])).abs().max() <= 1


@pytest.mark.full
def test_two_teams_of_two_share_a_benchmark(model: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, bench_words(model, tmp_path / "alone"))
    assert result.exit_code == 0, result.output
    words = [*bench_words(model, tmp_path / "together"), "--ulysses", "2", "--device", "cpu"]
    torchrun("command", 4, words, tmp_path, timeout=500)
    together = RunFolder(tmp_path / "together")
    same_run(together, RunFolder(tmp_path / "alone"))
    assert sorted(file.name for file in together.record_folder.iterdir()) == ["0.jsonl", "1.jsonl"]
    assert "4 processes, 2 to a picture" in together.about()["device"]


def test_what_cannot_be_split_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = CliRunner().invoke(main, ["sample", "--ulysses", "2", "--out", str(tmp_path)])
    assert alone.exit_code == 1 and "there are 1 processes; start 2" in alone.output
    package = CliRunner().invoke(main, ["sample", "--ulysses", "2", "--package", "flux.pt2"])
    assert package.exit_code == 2 and "a package is of one process" in package.output
    monkeypatch.setenv("WORLD_SIZE", "4")
    many = CliRunner().invoke(main, ["sample", "--ulysses", "2", "--out", str(tmp_path)])
    assert many.exit_code == 1 and "there are 4 processes" in many.output
