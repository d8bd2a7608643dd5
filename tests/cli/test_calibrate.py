"""`fxcache calibrate`: a plan's file, a picture beside it, one line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

import fxcache
from fxcache.cli import main
from fxcache.config import as_config


def calibrate(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["calibrate", *map(str, words)])


def test_one_speedup_is_one_plan_and_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    done = calibrate("--steps", 8, "--runs", 4, "--no-search", "--speedup", 2, "--out", out)
    assert done.exit_code == 0, done.output
    plan = fxcache.Plan.load(out)
    assert (plan.steps, len(plan.computed), plan.model) == (8, 4, "FluxTransformer2DModel")
    assert plan.runs == 3 and plan.quality is not None and plan.quality.runs == 1
    with Image.open(out.with_suffix(".png")) as picture:
        assert picture.width > 600
    assert "made by: fxcache calibrate --model embedded --steps 8 --speedup 2" in done.output


@pytest.mark.full
def test_several_speedups_are_a_frontier(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    done = calibrate("--steps", 8, "--runs", 4, "--no-search", "--speedup", 2, "--speedup", 4, "--out", out)
    assert done.exit_code == 0, done.output
    assert {p.name for p in tmp_path.iterdir()} == {
        *("plan-2.00x.json", "plan-2.00x.png", "plan-4.00x.json", "plan-4.00x.png", "plan.frontier.png")
    }
    assert "4 of 8" in done.output and "2 of 8" in done.output


def test_a_setting_is_yaml_that_every_command_takes(tmp_path: Path) -> None:
    out = tmp_path / "setting.yaml"
    asked = 'F0B0_W2M0MC0_T1O1_R0_LO_E_D{"name":"magcache","ratios":[1.0]}'
    words = ("--steps", 8, "--runs", 2, "--speedup", 1.5)
    done = calibrate(*words, "--config", asked, "--out", out)
    assert done.exit_code == 0, done.output
    found = fxcache.CacheConfig.from_yaml(out)
    assert len(found.policy.ratios) == 8 and found.residual_diff_threshold > 0  # type: ignore[attr-defined]
    assert as_config(str(out)) == found and str(found) in done.output
    assert out.with_suffix(".png").exists()
    assert f"--config '{asked}'" in done.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--speedup", "0.5"), "speedup=0.5"),
        (("--speedup", "2", "--psnr", "40"), "not both"),
        (("--model", "nowhere"), "nowhere"),
        (("--prompts", "nowhere.txt"), "nowhere.txt"),
        (("--config", "F8"), "F8"),
        (("--config", "nowhere.yaml"), "nowhere.yaml"),
        (("--config", "2x@4"), "has no threshold to find"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = calibrate(*words, "--steps", 4, "--runs", 2, "--out", tmp_path / "plan.json")
    assert done.exit_code != 0 and says in done.output and "Traceback" not in done.output
