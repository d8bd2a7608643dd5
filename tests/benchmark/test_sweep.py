"""Settings of a sweep: plans, solvers, and those that share a graph."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fxcache
from fxcache import CacheConfig
from fxcache.benchmark.candidate import Candidate, draw, prepare
from fxcache.benchmark.embedded_subject import EmbeddedSubject
from fxcache.benchmark.errors import PipelineError, SweepError
from fxcache.benchmark.plain_cost import PlainCost
from fxcache.benchmark.prompts import Prompt
from fxcache.benchmark.start import load_subject
from fxcache.benchmark.sweep import Setting, load_sweep


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


def test_solvers_of_fewer_steps_are_read(tmp_path: Path) -> None:
    sweep = tmp_path / "plans.yaml"
    sweep.write_text("settings: [P28K11]\nsolvers: [dpm++, unipc]\n")
    assert load_sweep(str(sweep)).solvers == ("dpm++", "unipc")
    sweep.write_text("settings: [P28K11]\nsolvers: [heun]\n")
    with pytest.raises(SweepError, match=r"no solver 'heun'; there are dpm\+\+, unipc"):
        load_sweep(str(sweep))


def test_settings_of_one_graph_are_captured_once() -> None:
    subject = EmbeddedSubject(torch.device("cpu"), None, {})
    texts = ["F1B0_W2M0MC2_T0O1_R9", "F1B0_W3M0MC0_T0O1_R9", "F1B0_W2M0MC0_T1O1_R9"]
    prompts, ready = (Prompt(0, "Bag", 0),), list[Candidate]()
    for text in texts:
        setting = Setting(text, CacheConfig.from_string(text))
        ready.append(prepare(subject, setting, 5, prompts, PlainCost(), ready))
    first, second, other = (candidate.models["transformer"] for candidate in ready)
    assert first is second and first is not other
    found = [
        [c.cached_steps for c in draw(subject, ready[i], prompts)[1][0].contexts.values()] for i in (0, 1, 0)
    ]
    assert found == [[(2, 3)], [(3, 4)], [(2, 3)]]


def test_a_subject_may_be_what_a_function_gives() -> None:
    subject = load_subject("bench.emoji_pixart:subject", torch.device("cpu"), None, {})
    (image,) = subject.draw([Prompt(0, "Flags", 0)], 2, "unipc")
    assert image.size == (32, 32) and subject.batch == 10
    with pytest.raises(PipelineError, match="cannot be imported"):
        load_subject("bench.nowhere:subject", torch.device("cpu"), None, {})
