"""A sample that leaps begins a new trajectory, in the graph itself: also where time goes on falling."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache.errors import TrajectoryWarning
from tests.behaviour.faults.base import EAGER, WIDTH, Base, build
from tests.sweep import sweep

STATIC = "F0B0_W1M0MC0_T0O1_R0_S10000000s"  # steps by the mask alone, no residual to compare


def start(seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


def denoise(
    model: Callable[..., Any], seed: int, times: Sequence[float], dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Outputs of a run: x ← x − 0.05 · model(x, t)."""
    x, outputs = start(seed, dtype), []
    with torch.no_grad():
        for time in times:
            outputs.append(model(x, torch.full((2,), time)))
            x = x - 0.05 * outputs[-1]
    return outputs


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


FULL = [900.0, 700.0, 500.0]
LOWER = [400.0, 300.0, 200.0, 100.0]


class Text(Base):
    """Time enters, so that one step's cache does not fit another's."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        x = x + torch.sin(timestep).reshape(-1, 1, 1).to(x.dtype)
        for block in self.blocks:
            x = block(x)
        return x


def alone(setting: str, seed: int, times: Sequence[float], **options: Any) -> list[Tensor]:
    return denoise(fxcache.transform(build(Text), setting, **options), seed, times)


@pytest.mark.parametrize("setting", sweep((EAGER, STATIC, "F1B1_W0M0MC0_T1O1_R1000"), (EAGER, STATIC)))
@pytest.mark.parametrize("scope", sweep(("model", "list"), ("list",)))
def test_s14_a_cancelled_run_and_a_partial_run_in_one_named_context(setting: str, scope: str) -> None:
    cached = fxcache.transform(build(Text), setting, scope=scope)
    with cached.cache_context("cond"):
        denoise(cached, 1, FULL)
        again = denoise(cached, 2, LOWER)
    assert same(again, alone(setting, 2, LOWER, scope=scope))
    assert cached.stats()["cond"].hits == (False, True, True, True)


class Lists(nn.Module):
    """Two module lists: a decision for each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Base(3).blocks, Base(4).blocks

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        x = x + torch.sin(timestep).reshape(-1, 1, 1)
        for block in self.first:
            x = block(x)
        x = torch.tanh(x)
        for block in self.second:
            x = block(x)
        return x


def test_s14_every_segment_restarts() -> None:
    cached = fxcache.transform(build(Lists), EAGER, scope="list")
    with cached.cache_context("cond"):
        denoise(cached, 1, FULL)
        again = denoise(cached, 2, LOWER)
    expected = denoise(fxcache.transform(build(Lists), EAGER, scope="list"), 2, LOWER)
    assert same(again, expected)
    segments = cached.stats()["cond"].segments
    assert [s.hits for s in segments] == [(False, True, True, True)] * 2


def test_s14_the_run_that_is_taken_up_at_a_rising_time() -> None:
    cached = fxcache.transform(build(Text), EAGER)
    with cached.cache_context("cond"):
        denoise(cached, 1, [100.0, 300.0, 500.0])
        again = denoise(cached, 2, [600.0, 700.0, 800.0])
    assert torch.equal(again[0], build(Text)(start(2), torch.full((2,), 600.0)))


class NoTime(Base):
    """No timestep: the sample alone tells."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize("setting", [EAGER, STATIC])
def test_s14_a_loop_without_a_timestep_run_twice(setting: str) -> None:
    cached = fxcache.transform(build(NoTime), setting)
    runs = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrajectoryWarning)
        for seed in (1, 2, 1):
            runs.append(denoise(lambda x, _: cached(x), seed, LOWER))
            assert cached.stats()["default"].hits == (False, True, True, True)
    assert same(runs[0], runs[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_s14_other_dtypes(dtype: torch.dtype) -> None:
    model = build(Text).to(dtype)
    cached = fxcache.transform(model, EAGER)
    with cached.cache_context("cond"):
        denoise(cached, 1, FULL, dtype)
        again = denoise(cached, 2, LOWER, dtype)
    assert torch.equal(again[0], model(start(2, dtype), torch.full((2,), LOWER[0])))
    assert cached.stats()["cond"].hits == (False, True, True, True)


class Tokens(Base):
    """Whole numbers are denoised: masked tokens, some filled in at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, WIDTH)

    def forward(self, ids: Tensor, timestep: Tensor) -> Tensor:  # type: ignore[override]
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return x


def test_s14_tokens() -> None:
    model = build(Tokens)
    cached = fxcache.transform(model, EAGER)
    first, second = (
        torch.randint(0, 100, (2, 20), generator=torch.Generator().manual_seed(i)) for i in (1, 2)
    )
    with cached.cache_context("cond"), torch.no_grad():
        for i, time in enumerate(FULL):
            cached(first.clone().index_fill(1, torch.arange(4 * i), 0), torch.full((2,), time))
        assert cached.stats()["cond"].hits == (False, True, True)
        time = torch.full((2,), LOWER[0])
        assert torch.equal(cached(second, time), model(second, time))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_s14_a_sample_without_a_size(value: float) -> None:
    """Nothing can be said of how far it moved: such a step computes, and so does the one after it."""
    model = build(Text)
    cached = fxcache.transform(model, STATIC)
    odd = torch.full((2, 5, WIDTH), value)
    with cached.cache_context("cond"), torch.no_grad():
        denoise(cached, 1, FULL)
        for x, time in ((odd, 400.0), (start(2), 300.0)):
            t = torch.full((2,), time)
            torch.testing.assert_close(cached(x, t), model(x, t), rtol=0, atol=0, equal_nan=True)


def test_s14_one_image_twice_at_low_strength_keeps_its_cache() -> None:
    """What a sampler does with a sample is no leap: also large steps, as few-step models make them."""
    cached = fxcache.transform(build(Text), EAGER)
    noise, image = start(1), start(2)
    with torch.no_grad(), cached.cache_context("cond"):
        for i in range(4):
            share = 1 - i / 4
            cached(share * noise + (1 - share) * image, torch.full((2,), 1000 * share))
    assert cached.stats()["cond"].hits == (False, True, True, True)


@pytest.mark.parametrize("growth", [0.1, 0.5, 3.0, 6.0])
def test_s14_a_sample_that_grows_or_shrinks_is_the_same(growth: float) -> None:
    """Samplers that do not keep its size, or models whose output is large."""
    cached = fxcache.transform(build(Text), EAGER)
    turn = 0.3 * start(2)
    with torch.no_grad(), cached.cache_context("cond"):
        for i, time in enumerate(LOWER):
            cached(growth**i * (start(1) + i * turn), torch.full((2,), time))
    assert cached.stats()["cond"].hits == (False, True, True, True)


@pytest.mark.parametrize("size", [0.02, 1.0, 50.0])
def test_s14_other_noise_of_any_size_leaps(size: float) -> None:
    model = build(Text)
    cached = fxcache.transform(model, STATIC)
    other, time = size * start(2), torch.full((2,), LOWER[0])
    with torch.no_grad(), cached.cache_context("cond"):
        denoise(cached, 1, FULL)
        assert torch.equal(cached(other, time), model(other, time))
