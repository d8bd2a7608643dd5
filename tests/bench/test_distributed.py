"""`python -m bench.distributed` runs to its end on a CPU; what fails would be a row that says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.distributed import checks, main, table

RANK: dict[str, Any] = {
    "never off plain": 0.0,
    "plain off": 1e-7,
    "decided off": 1e-7,
    "hits": [False, False, True, False],
    "hits of one": [False, False, True, False],
    "diffs": [0.25, 0.5],
    "diffs of one": [0.25, 0.5],
    "said": ["ranks 0, 1 decide together"],
    "plain ms": 8.0,
    "miss ms": 9.0,
    "hit ms": 2.0,
    "plan ms": 4.0,
    "gather us": 30.0,
    "host us": 50.0,
}
OTHERWISE: dict[str, dict[str, Any]] = {
    "decisions alike": {"diffs": [0.25, 0.5 + 1e-9]},
    "decisions of one process": {"hits of one": [False, False, True, True]},
    "signals of one process": {"diffs of one": [0.25, 0.6]},
    "nothing cached, bitwise": {"never off plain": 1e-9},
    "output of one process": {"decided off": 1e-3},
    "ranks found each other": {"said": []},
}


def test_each_check_can_fail_and_the_table_names_it() -> None:
    assert checks([RANK, RANK], 1e-5) == dict.fromkeys(OTHERWISE, True)
    for name, change in OTHERWISE.items():
        ranks = [RANK, {**RANK, **change}]
        assert [n for n, holds in checks(ranks, 1e-5).items() if not holds] == [name]
        assert f"| FAILED: {name} |" in table({1: [RANK], 2: ranks}, 1e-5)


def test_times_are_those_of_the_slowest_rank() -> None:
    alone = {**RANK, "gather us": None, "host us": None}
    said = table({1: [alone], 2: [RANK, {**RANK, "plan ms": 5.0}]}, 1e-5).splitlines()
    assert said[2] == "| 1 | 8.00 | 9.00 | 2.00 | 4.00 | - | - | 4.00 | 2.00 | passed |"
    assert said[3] == "| 2 | 8.00 | 9.00 | 2.00 | 5.00 | 30.00 | 50.00 | 4.00 | 1.60 | passed |"


@pytest.mark.full
def test_on_a_cpu_it_runs_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert main(["--device", "cpu", "--quick", "--out", str(tmp_path)]) == 0
    [written] = tmp_path.glob("distributed-*-quick.json")
    report = json.loads(written.read_text())
    assert report["failed"] == {} and report["backend"] == "gloo" and list(report["ranks"]) == ["1", "2"]
    first, second = report["ranks"]["2"]
    assert any(first["hits"]) and first["diffs"] == second["diffs"]
    assert first["gather us"] > 0 and first["host us"] > 0 and first["hit ms"] > 0
    assert capsys.readouterr().out.count("passed") == 2
