"""Policies against what diffusers and the makers' code compute, by numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from diffusers.hooks import MagCacheConfig, apply_mag_cache
from diffusers.hooks.sea_cache import _apply_sea_filter
from hypothesis import given
from hypothesis import strategies as st

import fxcache
from fxcache import CacheConfig, MagCache, SeaCache, TeaCache
from fxcache.policies import Progress
from tests.behaviour.zoo import find
from tests.sweep import sweep

STEPS = 12
FLUX = find("FluxTransformer2DModel")


def steps(inputs: dict[str, Any]) -> list[dict[str, Any]]:
    """Calls of one run: the latents drift, the time falls."""
    drift = torch.randn(inputs["hidden_states"].shape, generator=torch.Generator().manual_seed(1))
    return [
        {
            **inputs,
            "hidden_states": inputs["hidden_states"] + 0.05 * step * drift,
            "timestep": torch.full_like(inputs["timestep"], 1 - step / STEPS),
            "return_dict": False,
        }
        for step in range(STEPS)
    ]


@pytest.mark.parametrize(("threshold", "most"), sweep([(0.06, 3), (0.2, 2), (0.5, 5)], [(0.2, 2), (0.06, 3)]))
def test_magcache_has_the_hits_and_outputs_of_diffusers(threshold: float, most: int) -> None:
    ratios = [1.0, 1.02, 0.99, 0.97, 0.98, 0.96, 0.95, 0.97, 0.9, 0.95, 0.92, 0.9, 0.85]
    model, inputs = FLUX.build()
    retention = 0.2
    config = CacheConfig(
        fn_compute_blocks=0,
        max_warmup_steps=int(retention * STEPS + 0.5),
        max_continuous_cached_steps=most,
        residual_diff_threshold=threshold,
        policy=MagCache(ratios).resampled(STEPS),
    )
    cached = fxcache.transform(model, config)
    with torch.no_grad():
        ours = [cached(**call)[0] for call in steps(inputs)]
    other, _ = FLUX.build()
    other.load_state_dict(model.state_dict())
    ran: list[int] = []
    other.single_transformer_blocks[-1].norm.register_forward_hook(lambda *_: ran.append(len(theirs)))
    theirs: list[torch.Tensor] = []
    apply_mag_cache(other, MagCacheConfig(threshold, most, retention, STEPS, ratios))
    with torch.no_grad():
        for call in steps(inputs):
            theirs.append(other(**call)[0])
    hits = cached.stats()["default"].hits
    assert [step for step, hit in enumerate(hits) if not hit] == ran
    assert 0 < sum(hits) < STEPS
    for got, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 7, 28, 50])
def test_magcache_resamples_as_its_makers_do(steps: int) -> None:
    ratios = [1 - 0.01 * i for i in range(20)]
    config = MagCacheConfig(num_inference_steps=steps, mag_ratios=ratios)
    assert MagCache(ratios).resampled(steps).ratios == pytest.approx(config.mag_ratios.tolist())


@given(sigma=st.floats(0.01, 0.99), seed=st.integers(0, 5), frames=st.integers(1, 4))
def test_seacache_filters_as_diffusers_does(sigma: float, seed: int, frames: int) -> None:
    latents = torch.randn(1, 3, frames, 5, 6, generator=torch.Generator().manual_seed(seed))
    at = Progress(*torch.tensor([3.0, 0.0, 3.0, 1000 * sigma]))
    got = SeaCache(power=3.0).view(latents, at)
    wanted = _apply_sea_filter(latents[0].movedim(0, -1), sigma, 3.0).movedim(-1, 0)
    torch.testing.assert_close(got[0], wanted, rtol=2e-4, atol=2e-5)


def test_seacache_finds_the_grid_of_tokens() -> None:
    latents = torch.randn(2, 3, 4, 6)
    tokens = latents.flatten(2).movedim(1, -1)
    at = Progress(*torch.tensor([3.0, 0.0, 3.0, 0.5]))
    of_tokens = SeaCache(full_noise=1.0, grid=(4, 6)).view(tokens, at)
    torch.testing.assert_close(of_tokens, SeaCache(full_noise=1.0).view(latents, at))


# Its makers' numbers for FLUX (arXiv 2411.19108's code).
COEFFICIENTS = (4.98651651e02, -2.83781631e02, 5.58554382e01, -3.82021401e00, 2.64230861e-01)


@given(changes=st.lists(st.floats(0.0, 0.6), min_size=1, max_size=9))
def test_teacache_adds_up_the_polynomial_of_numpy(changes: list[float]) -> None:
    policy, memory = TeaCache(COEFFICIENTS), torch.zeros(1)
    numbers, wanted = torch.tensor(policy.numbers()), 0.0
    for change in changes:
        decision = policy.decide(torch.tensor(change), memory, numbers, Progress(*torch.zeros(4)))
        memory, wanted = decision.if_hit, wanted + float(numpy.poly1d(COEFFICIENTS)(change))
        assert decision.number.item() == pytest.approx(wanted, rel=1e-3, abs=1e-4)
        assert decision.if_computed.tolist() == [0.0]


def test_spectrums_window_computes_as_many_steps_as_its_makers_say() -> None:
    for growth, computed in ((0.75, 14), (3.0, 10)):
        config = CacheConfig(
            fn_compute_blocks=0,
            max_warmup_steps=5,
            policy=fxcache.GrowingWindow(2, growth),
            residual_diff_threshold=math.inf if growth < 0 else 1.0,
        )
        assert _computed(config, 50) == computed


def _computed(config: CacheConfig, count: int) -> int:
    from tests.toy import latents, timesteps, toy

    cached = fxcache.transform(toy(), config)
    with torch.no_grad():
        for sample, time in zip(latents(count, 0), timesteps(count), strict=True):
            cached(sample, time)
    return count - cached.stats().cached
