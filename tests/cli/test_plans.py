"""Commands that take a plan where they take a setting."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import fxcache
from fxcache.cli import main
from tests.sweep import sweep


@pytest.mark.parametrize("kind", sweep(("notation", "file"), ("file",)))
def test_sample_follows_a_plan(kind: str, tmp_path: Path) -> None:
    plan = fxcache.plan(steps=6, speedup=2)
    setting = "P6K3" if kind == "notation" else str(plan.save(tmp_path / "plan.json"))
    out = tmp_path / "out"
    done = CliRunner().invoke(main, ["sample", "--config", setting, "--steps", "6", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert (out / "comparison.png").stat().st_size > 0 and "3 (50%)" in done.output


@pytest.mark.parametrize(
    ("setting", "says"),
    [("P6K3", "for 6 steps, but 7"), ("nowhere.json", "no such file"), ("P6K3_12345678", "the plan's file")],
)
def test_a_plan_that_cannot_be_is_one_line(setting: str, says: str) -> None:
    done = CliRunner().invoke(main, ["sample", "--config", setting, "--steps", "7"])
    assert done.exit_code == 1 and says in done.output and len(done.output.splitlines()) == 1
