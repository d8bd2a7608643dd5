"""Settings of a sweep that are plans."""

from __future__ import annotations

from pathlib import Path

import pytest

import fxcache
from fxcache.benchmark.errors import SweepError
from fxcache.benchmark.sweep import load_sweep


def test_a_setting_may_be_a_plans_file_beside_the_sweep(tmp_path: Path) -> None:
    plan = fxcache.plan(steps=28, speedup=2.5).replace(timesteps=[1000.0 - i for i in range(28)])
    plan.save(tmp_path / "fitted.json")
    sweep = tmp_path / "plans.yaml"
    sweep.write_text("settings: [P28K11, {plan: fitted.json, name: fitted-2.5x}]\n")
    _, formula, fitted = load_sweep(str(sweep)).settings
    assert formula.name == "P28K11" and fitted.name == "fitted-2.5x"
    assert fitted.config.plans == (plan,)


def test_a_missing_plan_is_said(tmp_path: Path) -> None:
    sweep = tmp_path / "plans.yaml"
    sweep.write_text("settings: [{plan: nowhere.json}]\n")
    with pytest.raises(SweepError, match=r"nowhere\.json"):
        load_sweep(str(sweep))
