"""The config: validation, notation, dictionaries, YAML."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings

import fxcache
from fxcache import CacheConfig, TaylorSeer
from fxcache.errors import (
    ConfigError,
    FxcacheError,
    MaskTooShortError,
    NotationError,
    PlanError,
    SignalRequiredError,
)
from tests.strategies import any_forecaster, configs
from tests.toy import latents, timesteps, toy


@settings(max_examples=300, deadline=None)
@given(config=configs(forecaster=any_forecaster))
def test_notation_dictionary_and_yaml_round_trip(config: CacheConfig) -> None:
    assert CacheConfig.from_string(str(config)) == config
    assert CacheConfig.from_dict(config.to_dict()) == config
    assert CacheConfig.from_yaml(yaml.safe_dump(config.to_dict()) + "\n") == config


@pytest.mark.parametrize(
    "text",
    [
        "C0_Q0_NONE",
        "F1B0_W4M0MC0_T0O1_R0.08",
        "F8B0_W8M0MC3_T1O1_R0.12",
        "F4B2_W0M7MC4_T1O2_R1",
        "F8B0_W8M0MC0_T0O1_R0.08_I2_A0.5_S1101d",
    ],
)
def test_the_benchmarks_names_are_written_as_they_were_read(text: str) -> None:
    assert str(CacheConfig.from_string(text)) == text


def test_notation_means_what_the_benchmark_says() -> None:
    assert CacheConfig.from_string("F8B0_W8M0MC3_T1O1_R0.12") == CacheConfig(
        fn_compute_blocks=8,
        bn_compute_blocks=0,
        max_warmup_steps=8,
        max_cached_steps=None,
        max_continuous_cached_steps=3,
        residual_diff_threshold=0.12,
        forecaster=TaylorSeer(order=1),
    )


@pytest.mark.parametrize(
    ("text", "steps", "hits"),
    [
        ("2x", 10, "0010101010"),
        ("3x", 11, "00110110110"),
        ("4x", 10, "0011101110"),
        ("few@4", 4, "0010"),
        ("few@6", 6, "001010"),
        ("few@8", 8, "00101010"),
        ("few@9", 9, "001010100"),
        ("2x@8", 8, None),
    ],
)
def test_presets_say_what_is_computed(text: str, steps: int, hits: str | None) -> None:
    config = CacheConfig.from_string(text)
    cached = fxcache.transform(toy(), text)
    with torch.no_grad():
        for x, t in zip(latents(steps, 0), timesteps(steps), strict=True):
            cached(x, t)
    found = cached.stats()["default"].hits
    if hits is None:
        assert config.plans[0] == fxcache.plan(steps, 2.0) and sum(found) == steps - 4
    else:
        assert "".join(str(int(hit)) for hit in found) == hits
    assert CacheConfig.from_string(str(config)) == config


@pytest.mark.parametrize(
    ("text", "need"),
    [("2.5x", "2.5x@28"), ("few", "few@8"), ("1x", "1x@28"), ("0x@28", "at least 1"), ("5x", "5x@28")],
)
def test_presets_that_cannot_be_say_what_they_need(text: str, need: str) -> None:
    with pytest.raises(NotationError, match=re.escape(need)):
        CacheConfig.from_string(text)


@pytest.mark.parametrize("text", ["", "F8", "F8B0_W8M0MC3_T1O0_R0.1", "F8B0_W8M0MC3_T2O1_R0.12", "x_R1"])
def test_unknown_notation_is_refused(text: str) -> None:
    with pytest.raises(NotationError, match=r"F8B0_W8M0MC3_T1O1_R0\.12"):
        CacheConfig.from_string(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fn_compute_blocks", -1),
        ("fn_compute_blocks", 1.5),
        ("fn_compute_blocks", True),
        ("bn_compute_blocks", -1),
        ("max_warmup_steps", -1),
        ("warmup_interval", 0),
        ("max_cached_steps", 0),
        ("max_continuous_cached_steps", -2),
        ("residual_diff_threshold", -0.1),
        ("residual_diff_threshold", float("nan")),
        ("residual_diff_threshold", "0.1"),
        ("max_accumulated_residual_diff", 0.0),
        ("steps_mask", ()),
        ("steps_mask", (0, 2)),
        ("steps_mask", "10x"),
        ("steps_mask_policy", "sometimes"),
        ("forecaster", "taylor"),
        ("enabled", 1),
    ],
)
def test_a_value_that_cannot_work_names_its_field(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field):
        CacheConfig(**{field: value})  # type: ignore[arg-type]


def test_no_front_blocks_needs_a_decision_without_a_signal() -> None:
    with pytest.raises(SignalRequiredError, match="steps_mask"):
        CacheConfig(fn_compute_blocks=0)
    CacheConfig(fn_compute_blocks=0, steps_mask="1001", steps_mask_policy="static")


def test_a_mask_shorter_than_the_run_is_refused() -> None:
    config = CacheConfig(steps_mask="1100")
    assert config.for_steps(4) is config
    with pytest.raises(MaskTooShortError, match="4 entries but 28 steps"):
        config.for_steps(28)


def test_unknown_fields_and_forecasters_are_refused() -> None:
    with pytest.raises(ConfigError, match="CacheConfig has no 'fn'"):
        CacheConfig.from_dict({"fn": 1})
    with pytest.raises(ConfigError, match="taylorseer"):
        CacheConfig.from_dict({"forecaster": {"name": "oracle"}})
    with pytest.raises(ConfigError, match="order"):
        TaylorSeer(order=0)


def test_yaml_files(tmp_path: Path) -> None:
    path = tmp_path / "cache.yaml"
    path.write_text("fn_compute_blocks: 2\nforecaster: {name: taylorseer, order: 2}\n")
    assert CacheConfig.from_yaml(path) == CacheConfig(fn_compute_blocks=2, forecaster=TaylorSeer(order=2))
    path.write_text("F1B0_W4M0MC0_T0O1_R0.08\n")
    assert CacheConfig.from_yaml(path).fn_compute_blocks == 1


def test_a_plan_by_formula_has_a_notation() -> None:
    config = CacheConfig.from_string("P28K11")
    assert (config.plans[0].steps, len(config.plans[0].computed), config.level) == (28, 11, "output")
    assert str(config) == "P28K11" and CacheConfig.from_string(str(config)) == config


def test_other_plans_are_told_apart_and_read_from_files_only() -> None:
    plan = CacheConfig.from_string("P28K11").plans[0]
    names = {str(CacheConfig.from_plans(p)) for p in (plan, plan.replace(model="A"), plan.replace(model="B"))}
    assert len(names) == 3 and all(name.startswith("P28K11") for name in names)
    with pytest.raises(NotationError, match=r"plan\.json"):
        CacheConfig.from_string(max(names))


@pytest.mark.parametrize("text", ["P28K1", "P4K5", "P0K0", "P300K3"])
def test_what_is_no_plan_is_not_read(text: str) -> None:
    with pytest.raises(FxcacheError):
        CacheConfig.from_string(text)


def test_a_plan_is_for_its_number_of_steps() -> None:
    with pytest.raises(PlanError, match="28 steps, but 50"):
        CacheConfig.from_string("P28K11").for_steps(50)


def test_level_and_feedback_have_a_notation() -> None:
    config = CacheConfig.from_string("F1B0_W4M0MC3_T1O1_R0.12_LO_E")
    assert (config.level, config.feedback) == ("output", True)
    assert CacheConfig.from_string(str(config)) == config
    with pytest.raises(ConfigError, match="bn_compute_blocks"):
        CacheConfig(level="output", bn_compute_blocks=1)
