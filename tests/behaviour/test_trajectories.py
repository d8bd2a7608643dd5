"""A trajectory starts clean: what ends one, and what must not leak into the next."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import fxcache
from fxcache import CachedTransformer
from fxcache.errors import GradientWarning, TrajectoryWarning
from tests.toy import ToyDiT, latents, timesteps, toy

SETTING = "F1B0_W2M0MC0_T0O1_R1000"
STEPS = 6


def run(model: CachedTransformer, seed: int = 0, steps: int = STEPS, times: list[Tensor] | None = None):
    with torch.no_grad():
        return [model(x, t) for x, t in zip(latents(steps, seed), times or timesteps(steps), strict=True)]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def hits(model: CachedTransformer, context: str = "default") -> str:
    return "".join(str(int(h)) for h in model.stats()[context].hits)


def test_a_plain_loop_run_twice_starts_clean() -> None:
    cached = fxcache.transform(toy(), SETTING)
    first = run(cached, seed=1)
    run(cached, seed=2)
    assert same(run(cached, seed=1), first)
    assert hits(cached) == "001111"


def test_an_interrupted_run_leaves_nothing() -> None:
    cached = fxcache.transform(toy(), SETTING)
    first = run(cached, seed=1)
    run(cached, seed=2, steps=3)
    assert same(run(cached, seed=1), first)


def test_a_single_call_before_a_run_leaves_nothing() -> None:
    cached = fxcache.transform(toy(), SETTING)
    first = run(cached, seed=1)
    with torch.no_grad():
        cached(latents(1, 5)[0], torch.tensor([500.0]))
    again = run(cached, seed=1)
    assert same(again, first)
    assert hits(cached) == "001111"


def test_rising_time_is_a_trajectory_too() -> None:
    cached = fxcache.transform(toy(), SETTING)
    rising = list(reversed(timesteps(STEPS)))
    first = run(cached, seed=1, times=rising)
    assert hits(cached) == "001111"
    assert same(run(cached, seed=1, times=rising), first)
    assert hits(cached) == "001111"


def test_the_second_step_of_rising_time_computes() -> None:
    cached = fxcache.transform(toy(), "F1B0_W0M0MC0_T0O1_R1000")
    run(cached, times=list(reversed(timesteps(STEPS))))
    assert hits(cached) == "001111"


def test_reset_starts_clean() -> None:
    cached = fxcache.transform(toy(), SETTING)
    times = timesteps(2 * STEPS)
    run(cached, times=times[:STEPS])
    cached.reset()
    assert not cached.stats().contexts
    run(cached, times=times[STEPS:])
    assert hits(cached) == "001111"


def test_diffusers_reset_keeps_the_record_and_frees_the_state() -> None:
    cached = fxcache.transform(toy(), SETTING)
    run(cached)
    before = cached.stats()["default"]
    cached._reset_stateful_cache()
    after = cached.stats()["default"]
    assert after.hits == before.hits
    assert after.residual_diffs == before.residual_diffs
    assert after.flops_saved == before.flops_saved
    assert after.state_bytes < before.state_bytes
    with torch.no_grad():
        cached(latents(1, 0)[0], torch.tensor([1.0]))  # further down: only the reset tells
    assert hits(cached) == "0"


@pytest.mark.parametrize("change", ["batch", "tokens", "dtype"])
def test_another_kind_of_call_starts_clean(change: str) -> None:
    model = toy()
    cached = fxcache.transform(model, SETTING)
    run(cached, steps=4)
    x = latents(1, 0, batch=2 if change == "batch" else 1, tokens=7 if change == "tokens" else 5)[0]
    if change == "dtype":
        model.to(torch.float64)
        x = x.double()
    with torch.no_grad():
        got = cached(x, torch.full((x.shape[0],), 1.0))
        assert torch.equal(got, model(x, torch.full((x.shape[0],), 1.0)))
    assert hits(cached) == "0"


def test_contexts_are_independent() -> None:
    cached = fxcache.transform(toy(), SETTING)
    alone = {seed: run(cached, seed) for seed in (1, 2)}
    cached.reset()
    together: dict[int, list[Tensor]] = {1: [], 2: []}
    with torch.no_grad():
        for i, t in enumerate(timesteps(STEPS)):
            for seed in (1, 2):
                with cached.cache_context(str(seed)):
                    together[seed].append(cached(latents(STEPS, seed)[i], t))
    assert same(together[1], alone[1])
    assert same(together[2], alone[2])
    assert set(cached.stats().contexts) == {"1", "2"}


def test_an_exception_leaves_no_state_that_a_later_step_could_use() -> None:
    model = toy()
    cached = fxcache.transform(model, SETTING)
    run(cached, steps=4)
    head = model.head.forward

    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    model.head.forward = fail  # type: ignore[method-assign]
    with torch.no_grad(), pytest.raises(RuntimeError, match="out of memory"):
        cached(latents(1, 9)[0], torch.tensor([2.0]))
    model.head.forward = head  # type: ignore[method-assign]
    x, t = latents(1, 3)[0], torch.tensor([1.0])
    with torch.no_grad():
        assert torch.equal(cached(x, t), model(x, t))
    assert hits(cached) == "0"


def test_gradients_run_the_original_and_warn_once() -> None:
    model = toy().requires_grad_(True)
    cached = fxcache.transform(model, SETTING)
    with pytest.warns(GradientWarning):
        out = cached(latents(1, 0)[0], timesteps(1)[0])
    out.sum().backward()
    assert model.head.weight.grad is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached(latents(1, 0)[0], timesteps(1)[0])


def test_a_model_without_a_timestep_says_that_it_needs_reset() -> None:
    class NoTime(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = toy()

        def forward(self, hidden_states: Tensor) -> Tensor:
            return self.inner(hidden_states, torch.ones(1))

    cached = fxcache.transform(NoTime().eval(), SETTING)
    x = latents(1, 0)[0]
    with torch.no_grad(), pytest.warns(TrajectoryWarning, match="reset"):
        for _ in range(4):
            cached(x)
    assert hits(cached) == "0011"
    cached.reset()
    with torch.no_grad():
        cached(x)
    assert hits(cached) == "0"


def test_a_number_as_timestep_does_not_capture_again() -> None:
    class TakesNumbers(ToyDiT):
        def forward(self, hidden_states: Tensor, timestep: Any) -> Any:
            return super().forward(hidden_states, torch.tensor([timestep]))

    model = TakesNumbers().eval()
    model.load_state_dict(toy().state_dict())
    cached = fxcache.transform(model, SETTING)
    with torch.no_grad():
        for i, x in enumerate(latents(STEPS, 0)):
            cached(x, 100.0 - i)
    assert hits(cached) == "001111"
    assert len(cached._specializations.all()) == 1


def test_the_original_is_untouched() -> None:
    model = toy()
    attributes = {name: set(vars(m)) for name, m in model.named_modules()}
    run(fxcache.transform(model, SETTING))
    assert {name: set(vars(m)) for name, m in model.named_modules()} == attributes
