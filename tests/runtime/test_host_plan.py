"""A host that counts the steps of a plan asks the device twice in a run. The device here is the CPU, of which
it is said that to read it waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import fxcache
from fxcache import CachedTransformer, Plan
from fxcache.errors import PlanWarning
from fxcache.ops import known_decision
from fxcache.runtime import contexts
from tests.toy import latents, toy

PLAN = Plan(
    steps=6,
    computed=(0, 1, 3, 5),
    weights=((1, 0, 0), (1, 0, 0), (0, 2, -1), (1.5, -1, 0.5), (0, 1.5, -0.5), (1, 0, 0)),
    timesteps=(1000, 800, 600, 400, 200, 100),
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """Every decision that the device was asked for."""
    found: list[bool] = []
    monkeypatch.setattr(contexts, "waits", lambda device: True)

    class Counted(torch.Tensor):
        pass

    def counting(hit: Tensor) -> bool:
        known = known_decision._KNOWN.get()
        if known is None:
            found.append(bool(hit))
            return found[-1]
        return known

    monkeypatch.setattr("fxcache.ops.cond.is_hit", counting)
    with torch.no_grad():
        yield found


def run(cached: CachedTransformer, times: tuple[float, ...], seed: int = 0) -> list[Tensor]:
    with cached.cache_context("a"):
        return [cached(x, torch.tensor([t])) for x, t in zip(latents(len(times), seed), times, strict=True)]


def reference(times: tuple[float, ...], seed: int = 0) -> list[Tensor]:
    """With the device asked at every step."""
    cached = fxcache.transform(toy(), PLAN)
    with torch.no_grad():
        return [cached(x, torch.tensor([t])) for x, t in zip(latents(len(times), seed), times, strict=True)]


def test_a_run_asks_twice(asked: list[bool]) -> None:
    assert PLAN.timesteps is not None
    cached = fxcache.transform(toy(), PLAN)
    got = run(cached, PLAN.timesteps)
    assert asked == [False, False]
    assert cached.stats()["a"].cached_steps == PLAN.hits
    again = run(cached, PLAN.timesteps, seed=4)  # with no reset: the count says that a run begins
    assert asked == [False] * 4
    asked.clear()
    assert all(map(torch.equal, got, reference(PLAN.timesteps)))
    assert all(map(torch.equal, again, reference(PLAN.timesteps, seed=4)))


def test_a_run_that_leaves_the_plan_warns_and_computes(asked: list[bool]) -> None:
    cached, model = fxcache.transform(toy(), PLAN), toy()
    times = (1000.0, 800.0, 600.0, 401.0, 150.0, 50.0)
    with pytest.warns(PlanWarning, match="150 where the plan has 200"):
        got = run(cached, times)
    assert torch.equal(got[5], model(latents(6, 0)[5], torch.tensor([50.0])))
    assert cached.stats()["a"].cached_steps == (2, 4)  # step 4 was under way
    assert torch.isfinite(got[4]).all()


def test_a_run_of_no_plan_asks_on(asked: list[bool]) -> None:
    cached, model = fxcache.transform(toy(), PLAN), toy()
    times = (900.0, 700.0, 500.0, 300.0, 200.0, 100.0)
    for got, x, t in zip(run(cached, times), latents(6, 0), times, strict=True):
        assert torch.equal(got, model(x, torch.tensor([t])))
    assert asked == [False] * 6


def test_a_run_broken_off_and_reset_leaves_nothing(asked: list[bool]) -> None:
    assert PLAN.timesteps is not None
    cached = fxcache.transform(toy(), PLAN)
    run(cached, PLAN.timesteps[:4])
    cached.reset()
    got = run(cached, PLAN.timesteps)
    asked.clear()
    assert all(map(torch.equal, got, reference(PLAN.timesteps)))


def test_another_plan_is_counted_anew(asked: list[bool]) -> None:
    assert PLAN.timesteps is not None
    cached = fxcache.transform(toy(), PLAN)
    run(cached, PLAN.timesteps[:4])
    cached.use(PLAN.replace(computed=(0, 1, 2), weights=(*[(1, 0, 0)] * 3, *[(0, 1, 0)] * 3)))
    run(cached, PLAN.timesteps)
    assert cached.stats()["a"].cached_steps == (3, 4, 5)
