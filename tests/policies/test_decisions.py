"""Each policy in the graph decides as its plain loop does, and limits hold with all of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fxcache
from fxcache import (
    Budget,
    CacheConfig,
    DBCache,
    EasyCache,
    FixedInterval,
    ForecastError,
    GrowingWindow,
    MagCache,
    Policy,
    TaylorSeer,
    TeaCache,
)
from tests.policies.reference import Reference, run_of
from tests.sweep import sweep
from tests.toy import latents, timesteps, toy

STEPS = 18
numbers = st.floats(0.25, 2.0, allow_nan=False)


def quarters(least: int, most: int) -> st.SearchStrategy[float]:
    """Numbers that float32 holds: a window is rounded down."""
    return st.integers(least, most).map(lambda n: n / 4)


POLICIES: dict[str, st.SearchStrategy[Policy]] = {
    "DBCache": st.just(DBCache()),
    "ForecastError": st.just(ForecastError()),
    "Budget": st.just(Budget()),
    "TeaCache": st.builds(TeaCache, st.lists(numbers, min_size=1, max_size=4).map(tuple)),
    "EasyCache": st.just(EasyCache()),
    "MagCache": st.builds(MagCache, st.lists(st.floats(0.8, 1.1), min_size=1, max_size=STEPS + 2).map(tuple)),
    "FixedInterval": st.builds(FixedInterval, st.integers(2, 6)),
    "GrowingWindow": st.builds(GrowingWindow, quarters(8, 16), quarters(0, 8)),
}


ONE: dict[str, Policy] = {
    "DBCache": DBCache(),
    "ForecastError": ForecastError(),
    "Budget": Budget(),
    "TeaCache": TeaCache((2.0, 1.0, 0.1)),
    "EasyCache": EasyCache(),
    "MagCache": MagCache((1.0, 0.9, 0.95)),
    "FixedInterval": FixedInterval(3),
    "GrowingWindow": GrowingWindow(),
}


def _one(name: str) -> CacheConfig:
    policy = ONE[name]
    level = "output" if policy.learns else "middle"
    return CacheConfig(
        fn_compute_blocks=int(policy.needs_front), max_warmup_steps=2, policy=policy, level=level
    )


@st.composite
def configs(draw: st.DrawFn, policy: st.SearchStrategy[Policy]) -> CacheConfig:
    chosen = draw(policy)
    free = not chosen.needs_front
    return CacheConfig(
        fn_compute_blocks=0 if free else draw(st.integers(1, 2)),
        max_warmup_steps=draw(st.integers(0, 4)),
        max_continuous_cached_steps=draw(st.one_of(st.none(), st.integers(1, 4))),
        # No round numbers: a sum that reaches a threshold exactly is below it in one precision only.
        residual_diff_threshold=draw(st.sampled_from((0.0513, 0.3017, 1.0119, 2.5123))),
        forecaster=draw(st.sampled_from((None, TaylorSeer(order=1)))),
        level="output"
        if chosen.learns
        else draw(st.sampled_from(("middle", "output")))
        if free
        else "middle",
        policy=chosen,
    )


@pytest.mark.parametrize("examples", sweep((5, 40), (5,)))
@pytest.mark.parametrize("name", POLICIES)
def test_it_decides_as_its_makers_loop(name: str, examples: int) -> None:
    check = given(config=configs(POLICIES[name]), seed=st.integers(0, 3))(_decides)
    settings(max_examples=examples, deadline=None)(check)()


def _decides(config: CacheConfig, seed: int) -> None:
    model = toy()
    samples, times = latents(STEPS, seed), timesteps(STEPS)
    wanted = Reference(config, run_of(model, samples, times, config.fn_compute_blocks)).decide_all()
    cached = fxcache.transform(model, config)
    with torch.no_grad():
        for _ in range(2):  # a second trajectory remembers nothing of the first
            for step, (sample, time) in enumerate(zip(samples, times, strict=True)):
                output = cached(sample, time)
                if not wanted[step]:
                    torch.testing.assert_close(output, model(sample, time), rtol=1e-5, atol=1e-5)
            assert list(cached.stats()["default"].hits) == wanted


@pytest.mark.parametrize("name", ONE)
def test_nothing_cached_is_bitwise_the_model(name: str) -> None:
    cached = fxcache.transform(toy(), _one(name).replace(residual_diff_threshold=0.0))
    with torch.no_grad():
        for sample, time in zip(latents(6, 0), timesteps(6), strict=True):
            assert torch.equal(cached(sample, time), cached.original(sample, time))
    assert cached.stats().cached == 0


@pytest.mark.parametrize("name", ONE)
def test_a_run_that_ended_in_nan_does_not_reach_the_next(name: str) -> None:
    config = _one(name).replace(residual_diff_threshold=0.5)
    cached, clean = (fxcache.transform(toy(), config) for _ in range(2))
    with torch.no_grad():
        for sample, time in zip(latents(8, 0), timesteps(8), strict=True):
            cached(sample * float("nan"), time)
        for sample, time in zip(latents(8, 1), timesteps(8), strict=True):
            assert torch.equal(cached(sample, time), clean(sample, time))
    assert cached.stats()["default"].hits == clean.stats()["default"].hits
