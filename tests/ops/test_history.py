"""The ring against a list, and a weighted sum against a loop in plain numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fxcache
from fxcache.forecasters import Newton, TaylorSeer, Times
from fxcache.ops.history import by_slot, remember, weighted_sum
from tests.toy import latents, timesteps, toy

small = st.integers(-8, 8)  # sums of products of these are exact in float32


@given(
    slots=st.integers(1, 4), values=st.lists(small, min_size=1, max_size=9), table=st.lists(small, min_size=4)
)
def test_the_ring_is_a_list_of_the_last_values(slots: int, values: list[int], table: list[int]) -> None:
    history = torch.zeros(slots, 2, 3)
    for count, value in enumerate(values):
        remember(history, torch.full((2, 3), float(value)), torch.tensor(count))
    latest_first = values[::-1][:slots]
    wanted = sum(w * v for w, v in zip(table, latest_first, strict=False))
    known = [float(w) if i < len(values) else 0.0 for i, w in enumerate(table[:slots])]
    weights = by_slot(torch.tensor(known, dtype=torch.float64), torch.tensor(len(values)))
    assert torch.equal(weighted_sum(history, weights), torch.full((2, 3), float(wanted)))


@pytest.mark.parametrize("left", [float("nan"), float("inf")])
def test_what_is_left_over_in_a_slot_of_weight_zero_is_not_read(left: float) -> None:
    history = torch.tensor([[1.0], [left]])
    assert weighted_sum(history, torch.tensor([3.0, 0.0], dtype=torch.float64)).tolist() == [3.0]


def test_a_trajectory_that_ended_in_nan_does_not_reach_the_next() -> None:
    model = toy()
    cached = fxcache.transform(model, "F1B0_W1M0MC0_T1O2_R1000")
    clean = fxcache.transform(model, "F1B0_W1M0MC0_T1O2_R1000")
    with torch.no_grad():
        for x, t in zip(latents(6, 0), timesteps(6), strict=True):
            cached(x * float("nan"), t)
        for x, t in zip(latents(6, 1), timesteps(6), strict=True):
            assert torch.equal(cached(x, t), clean(x, t))
    assert any(clean.stats()["default"].cached_steps)


def test_one_slot_is_replayed_as_it_is() -> None:
    history = torch.randn(1, 4).bfloat16()
    assert weighted_sum(history) is not None and torch.equal(weighted_sum(history), history[0])


@pytest.mark.parametrize("method", [TaylorSeer(order=2), Newton(order=2)])
def test_bfloat16_is_nearer_to_the_truth_than_a_ladder_in_bfloat16(method: TaylorSeer | Newton) -> None:
    """The ladder of differences, rounded at every rung, as others keep it."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(512, generator=generator).bfloat16() for _ in range(3)]
    places, now = (0.0, 1.0, 3.0), 5.0
    history = torch.zeros(3, 512, dtype=torch.bfloat16)
    ladder: list[torch.Tensor] = []
    for count, value in enumerate(values):
        remember(history, value, torch.tensor(count))
        rungs = [value]
        for i in range(min(count, 2)):
            behind = count - 1 if isinstance(method, TaylorSeer) else count - 1 - i
            rungs.append((rungs[i] - ladder[i]) / (places[count] - places[behind]))
        ladder = rungs
    at64, *past = torch.tensor([now, *reversed(places), 0.0], dtype=torch.float64)
    computed = torch.tensor(3.0, dtype=torch.float64)
    weights = method.weights(Times(at64, tuple(past), computed))
    truth = sum(w * v.double() for w, v in zip(weights, reversed(values), strict=True))
    ahead = now - places[2]
    powers = (
        (1.0, ahead, ahead**2 / 2)
        if isinstance(method, TaylorSeer)
        else (1.0, ahead, ahead * (now - places[1]))
    )
    theirs = ladder[0] * powers[0] + ladder[1] * powers[1] + ladder[2] * powers[2]
    ours = weighted_sum(history, by_slot(weights, computed))
    assert ours.dtype == theirs.dtype == torch.bfloat16
    assert (ours.double() - truth).abs().mean() < 0.75 * (theirs.double() - truth).abs().mean()
