"""What the number of steps of a run is good for, and what is said of a run without a hit."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fxcache
from fxcache import CacheConfig, CachedTransformer
from fxcache.errors import ConfigError, IdleCacheWarning
from fxcache.ops.knobs import COMPUTE, STEPS, knob_row
from tests.behaviour.pipelines.build import WAN
from tests.behaviour.zoo.draw import Draw
from tests.toy import latents, timesteps, toy

ALWAYS = CacheConfig(fn_compute_blocks=1, max_warmup_steps=1, residual_diff_threshold=1000.0)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def run(cached: CachedTransformer, count: int, seed: int = 0, first: int = 0, told: bool = False) -> str:
    """A run; its hits. told: whether the sampler says where it is. first: of its steps."""
    for index, (x, t) in enumerate(zip(latents(count, seed), timesteps(count), strict=True)):
        if index >= first:
            said = {"step_index": index, "num_inference_steps": count, "sigma": 0.5} if told else {}
            with cached.cache_context("cond", **said):
                cached(x, t)
    return "".join(str(int(hit)) for hit in cached.stats()["cond"].hits)


@pytest.mark.parametrize(
    ("fields", "hits"),
    [
        ({"last_compute_steps": 2}, "0111111100"),
        ({"start_percent": 0.3}, "0001111111"),
        ({"end_percent": 0.75}, "0111111100"),
        ({"start_percent": 0.25, "end_percent": 0.9, "last_compute_steps": 3}, "0001111000"),
        ({"last_compute_steps": 1, "steps_mask": "1000000000", "steps_mask_policy": "static"}, "0111111110"),
    ],
)
def test_the_end_of_a_run_computes(fields: dict[str, Any], hits: str) -> None:
    config = ALWAYS.replace(**fields)
    assert run(fxcache.transform(toy(), config.replace(steps=10)), 10) == hits
    assert run(fxcache.transform(toy(), config.for_steps(10)), 10) == hits
    cached = fxcache.transform(toy(), config)
    assert run(cached, 10, told=True) == hits
    assert run(cached, 10, seed=1, told=True) == hits
    assert run(fxcache.transform(toy(), config), 10) == "0111111111"  # nobody says how many there are
    assert CacheConfig.from_string(str(config.replace(steps=10))) == config.replace(steps=10)


def test_what_the_sampler_says_goes_before_what_was_expected() -> None:
    cached = fxcache.transform(toy(), ALWAYS.replace(last_compute_steps=1, steps=28))
    assert run(cached, 6, told=True) == "011110"
    assert run(cached, 8, told=True) == "01111110"


def test_a_second_denoiser_sees_the_rest_of_a_run() -> None:
    cached = fxcache.transform(toy(), ALWAYS.replace(last_compute_steps=1, end_percent=0.8))
    assert run(cached, 10, first=5, told=True) == "01100"
    assert run(cached, 10, first=5, seed=1, told=True) == "01100"


def test_a_pipeline_of_diffusers_says_it() -> None:
    pipe, inputs = WAN.load(), WAN.inputs(Draw(7))
    fxcache.transform(pipe, ALWAYS.replace(last_compute_steps=1))
    call = {**inputs, "num_inference_steps": 8, "output_type": "latent"}
    pipe(**call, generator=torch.Generator().manual_seed(0))
    first, second = (model.stats()["cond"].hits for model in (pipe.transformer, pipe.transformer_2))
    assert first == (False, True, True, True)  # the run goes on with the other
    assert second == (False, True, True, False)


@given(
    count=st.integers(1, 60),
    last=st.integers(0, 70),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
)
def test_the_row_says_what_the_fields_do(count: int, last: int, shares: list[float]) -> None:
    start, end = shares
    row = knob_row(threshold=1.0, steps=count, last=last, start=start, end=end)[STEPS:]
    for step in range(count + 3):
        outside = step < start * count or step >= end * count or step >= count - last
        named = bool(last or start or end < 1)
        assert (row[step] == COMPUTE) == (named and outside)


def test_shares_are_in_order() -> None:
    for fields in ({"start_percent": 0.8, "end_percent": 0.5}, {"end_percent": 1.5}, {"start_percent": -0.1}):
        with pytest.raises(ConfigError):
            CacheConfig(**fields)  # type: ignore[arg-type]


# ------------------------------------------------------------------ runs without a hit


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            "F1B0_W4M0MC0_T0O1_R0.0001",
            r"its 8 residual diffs had P25 .* residual_diff_threshold=0.0001",
        ),
        ("F1B0_W12M0MC0_T0O1_R9", "its limits let no step be a hit: max_warmup_steps=12"),
        ("F1B0_W0M0MC0_T0O1_R9_S111111111111d", "its limits let no step be a hit: steps_mask=111111111111"),
    ],
)
def test_a_run_without_a_hit_is_told_of_once(config: str, reason: str) -> None:
    cached = fxcache.transform(toy(), config)
    for x, t in zip(latents(12, 0), timesteps(12), strict=True):
        cached(x, t)
    with pytest.warns(IdleCacheWarning, match=reason) as seen:
        cached.stats()
        cached.stats()
    assert len(seen) == 1


def within(cached: CachedTransformer, config: str) -> None:
    """A run with settings of its own."""
    for x, t in zip(latents(12, 0), timesteps(12), strict=True):
        with cached.cache_context("mine", config):
            cached(x, t)


def test_what_is_told_is_of_the_settings_that_the_run_had() -> None:
    cached = fxcache.transform(toy(), "F1B0_W30M0MC0_T0O1_R9")
    within(cached, "F1B0_W4M0MC0_T0O1_R0.0001")
    with pytest.warns(IdleCacheWarning, match=r"below residual_diff_threshold=0.0001"):
        cached.stats()
    changed = fxcache.transform(toy(), "F1B0_W4M0MC0_T0O1_R9")
    within(changed, "F1B0_W4M0MC0_T0O1_R0.0001")
    changed.configure("F1B0_W30M0MC0_T0O1_R9")
    with pytest.warns(IdleCacheWarning, match=r"below residual_diff_threshold=0.0001"):
        changed.stats()


@pytest.mark.parametrize("own", ["C0_Q0_NONE", "F1B0_W4M0MC0_T0O1_R0"])
def test_nobody_is_told_of_a_request_that_asked_for_no_hits(own: str) -> None:
    cached = fxcache.transform(toy(), "F1B0_W30M0MC0_T0O1_R9")
    within(cached, own)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not any(cached.stats()["mine"].hits)


def test_the_next_run_of_a_pipeline_tells_of_the_last() -> None:
    pipe, inputs = WAN.load(), WAN.inputs(Draw(7))
    fxcache.transform(pipe, "F1B0_W30M0MC0_T0O1_R9")
    call = {**inputs, "num_inference_steps": 24, "output_type": "latent"}
    pipe(**call)
    with pytest.warns(IdleCacheWarning, match="max_warmup_steps=30"):
        pipe(**{**call, "prompt_embeds": call["prompt_embeds"] + 1})


def test_calls_that_each_begin_a_run_are_told_of() -> None:
    cached = fxcache.transform(toy(), ALWAYS)
    with pytest.warns(IdleCacheWarning, match="each of the last 10 calls began a run of its own"):
        for x in latents(12, 0):
            cached(x, torch.ones(1))  # its time does not move


@pytest.mark.parametrize("config", ["F1B0_W1M0MC0_T0O1_R9", "F1B0_W1M0MC0_T0O1_R0", "C0_Q0_NONE", "P12K12"])
def test_nobody_is_told_of_what_was_asked_for(config: str) -> None:
    cached = fxcache.transform(toy(), config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(2):
            for x, t in zip(latents(12, seed), timesteps(12), strict=True):
                cached(x, t)
            cached.stats()
