"""The graph does what the documented semantics say: against an independent loop in plain Python."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fxcache
from fxcache import CacheConfig, CachedTransformer, TaylorSeer
from fxcache.forecasters import Times
from fxcache.ops.history import by_slot, remember, weighted_sum
from tests.reference_loop import ReferenceLoop
from tests.strategies import configs
from tests.sweep import sweep
from tests.toy import latents, timesteps, toy

STEPS = 16


def run(model: CachedTransformer, steps: int = STEPS, seed: int = 0) -> list[torch.Tensor]:
    """One trajectory."""
    with torch.no_grad():
        return [model(x, t) for x, t in zip(latents(steps, seed), timesteps(steps), strict=True)]


@pytest.mark.parametrize("examples", sweep((10, 60), (10,)))
def test_every_knob_decides_and_computes_as_documented(examples: int) -> None:
    check = given(config=configs(), seed=st.integers(0, 3))(_decides_and_computes_as_documented)
    settings(max_examples=examples, deadline=None)(check)()


def _decides_and_computes_as_documented(config: CacheConfig, seed: int) -> None:
    model = toy()
    reference = ReferenceLoop(model, config)
    cached = fxcache.transform(model, config)
    got = run(cached, seed=seed)
    with torch.no_grad():
        want = [reference(x, t) for x, t in zip(latents(STEPS, seed), timesteps(STEPS), strict=True)]
    stats = cached.stats()["default"]
    assert stats.hits == tuple(reference.hits)
    assert stats.residual_diffs == pytest.approx(reference.diffs, rel=1e-5)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("examples", sweep((5, 25), (5,)))
def test_nothing_cached_is_bitwise_the_model(examples: int) -> None:
    sizes = {"batch": st.integers(1, 3), "tokens": st.integers(2, 6)}
    check = given(config=configs(blocks=5), **sizes)(_is_bitwise_the_model)
    settings(max_examples=examples, deadline=None)(check)()


def _is_bitwise_the_model(config: CacheConfig, batch: int, tokens: int) -> None:
    model = toy(blocks=5)
    never = config.replace(residual_diff_threshold=0.0, steps_mask_policy="dynamic")
    cached = fxcache.transform(model, never)
    with torch.no_grad():
        for x, t in zip(latents(4, 1, batch, tokens), timesteps(4, batch), strict=True):
            assert torch.equal(cached(x, t), model(x, t))
    assert cached.stats().cached == 0


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("F1B0_W4M0MC0_T0O1_R1000", "0000111111"),
        ("F1B0_W4M0MC3_T0O1_R1000", "0000111011"),
        ("F1B0_W4M2MC0_T0O1_R1000", "0000110000"),
        ("F1B0_W6M0MC0_T0O1_R1000_I3", "0110111111"),
        ("F1B0_W4M0MC0_T0O1_R0", "0000000000"),
        ("F1B0_W4M0MC0_T0O1_R1000_S1100110d", "0011001111"),
        ("F0B0_W4M0MC0_T0O1_R0_S1001001s", "0110110000"),
        ("F1B0_W0M0MC0_T0O1_R1000_S0001s", "0110111111"),
    ],
)
def test_schedules(text: str, hits: str) -> None:
    cached = fxcache.transform(toy(), text)
    run(cached, steps=len(hits))
    got = "".join(str(int(h)) for h in cached.stats()["default"].hits)
    assert got == hits


def test_nan_and_infinity_compute() -> None:
    cached = fxcache.transform(toy(), "F1B0_W1M0MC0_T0O1_R1000")
    inputs = latents(6, 0)
    inputs[3] = torch.full_like(inputs[3], float("nan"))
    inputs[5] = torch.full_like(inputs[5], float("inf"))
    hits = []
    with torch.no_grad():
        for x, t in zip(inputs, timesteps(6), strict=True):
            cached(x, t)
            hits.append(cached.stats()["default"].hits[-1])
    # step 3 is NaN itself; step 4 compares with what step 3 stored; step 5 is infinite
    assert hits == [False, True, True, False, False, False]


def test_the_diff_is_taken_in_float32() -> None:
    cached = fxcache.transform(toy().bfloat16(), "F1B0_W1M0MC0_T0O1_R0.5")
    with torch.no_grad():
        for x, t in zip(latents(6, 0), timesteps(6), strict=True):
            cached(x.bfloat16(), t)
    diffs = cached.stats()["default"].residual_diffs.values()
    assert any(torch.tensor(d).bfloat16().item() != d for d in diffs)


def test_taylor_of_order_one_extrapolates_a_straight_line_exactly() -> None:
    seer, slope = TaylorSeer(order=1), torch.randn(4)

    history = torch.zeros(2, 4)
    for count, at in enumerate((0, 2)):
        remember(history, slope * at, torch.tensor(count))
    past = tuple(torch.tensor(p, dtype=torch.float64) for p in (2, 0, 0, 0))
    computed = torch.tensor(2, dtype=torch.float64)
    weights = seer.weights(Times(torch.tensor(5, dtype=torch.float64), past, computed))
    torch.testing.assert_close(weighted_sum(history, by_slot(weights, computed)), slope * 5)
