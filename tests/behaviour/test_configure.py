"""Settings are state: one graph, compiled or not, does as any of them says."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import fxcache
from fxcache import CacheConfig, CachedTransformer, TaylorSeer
from fxcache.errors import ConfigError, GraphSettingError, PlanError, UnknownOptionError
from tests import strategies
from tests.sweep import sweep
from tests.toy import latents, timesteps, toy

STEPS = 12
MADE_WITH = CacheConfig(fn_compute_blocks=1, bn_compute_blocks=1, forecaster=TaylorSeer(order=1))
ALWAYS = "F1B1_W2M0MC0_T1O1_R1000"


others = strategies.settings().map(lambda fields: MADE_WITH.replace(**fields))  # for that graph


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def run(model: Callable[..., Tensor], seed: int = 0, steps: int = STEPS) -> list[Tensor]:
    return [model(x, t) for x, t in zip(latents(steps, seed), timesteps(steps), strict=True)]


def alone(config: CacheConfig | str, seed: int = 0) -> tuple[list[Tensor], tuple[bool, ...]]:
    """What a model does that was made with these settings."""
    cached = fxcache.transform(toy(), config)
    return run(cached, seed), cached.stats()["default"].hits


def same(got: list[Tensor], want: list[Tensor]) -> bool:
    return all(map(torch.equal, got, want))


@pytest.mark.parametrize("examples", sweep((3, 20), (3,)))
def test_a_graph_does_as_any_settings_say(examples: int) -> None:
    cached = fxcache.transform(toy(), MADE_WITH)

    @given(others, others)
    @settings(max_examples=examples, deadline=None)
    def check(first: CacheConfig, second: CacheConfig) -> None:
        wanted = {config: alone(config) for config in (first, second)}
        for config in (first, second, first):
            cached.configure(config)
            want, hits = wanted[config]
            assert same(run(cached), want)
            assert cached.stats()["default"].hits == hits

    check()
    assert len(cached._specializations.all()) == 1


def test_fields_and_the_notation_are_taken() -> None:
    cached = fxcache.transform(toy(), MADE_WITH)
    cached.configure(residual_diff_threshold=1000.0, max_warmup_steps=2)
    assert str(cached.cache_config) == ALWAYS
    cached.configure("F1B1_W3M0MC1_T1O1_R1000")
    run(cached)
    assert cached.stats()["default"].cached_steps == (3, 5, 7, 9, 11)
    cached.configure(ALWAYS, max_cached_steps=2)
    run(cached)
    assert cached.stats()["default"].cached_steps == (2, 3)


def test_it_takes_effect_with_the_next_trajectory() -> None:
    cached = fxcache.transform(toy(), ALWAYS)
    xs, ts = latents(STEPS, 0), timesteps(STEPS)
    for x, t in zip(xs[:4], ts[:4], strict=True):
        cached(x, t)
    cached.configure(max_warmup_steps=3)
    for x, t in zip(xs[4:], ts[4:], strict=True):
        cached(x, t)
    assert cached.stats()["default"].hits == (False,) * 3 + (True,) * 5


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            "F2B1_W4M0MC0_T1O1_R0.1",
            "fn_compute_blocks = 2: .* made with 1. Give this config to",
        ),
        ("F1B0_W4M0MC0_T1O1_R0.1", "bn_compute_blocks = 0"),
        ("F1B1_W4M0MC0_T1O2_R0.1", "forecaster = TaylorSeer"),
        ("F1B1_W4M0MC0_T0O1_R0.1", "forecaster = None"),
        (MADE_WITH.replace(bn_compute_blocks=0, level="output"), "bn_compute_blocks|level"),
        (MADE_WITH.replace(feedback=True), "feedback = True"),
    ],
)
def test_what_is_part_of_the_graph_says_so(config: CacheConfig | str, says: str) -> None:
    cached = fxcache.transform(toy(), MADE_WITH)
    with pytest.raises(GraphSettingError, match=says):
        cached.configure(config)
    with pytest.raises(GraphSettingError, match=says), cached.cache_context("one", config):
        pass
    assert cached.cache_config == MADE_WITH


def test_what_cannot_work_is_refused_and_changes_nothing() -> None:
    cached = fxcache.transform(toy(), MADE_WITH)
    with pytest.raises(UnknownOptionError, match="did you mean 'residual_diff_threshold'"):
        cached.configure(threshold=0.1)
    with pytest.raises(ConfigError, match="max_warmup_steps"):
        cached.configure(max_warmup_steps=-1)
    with pytest.raises(PlanError, match="follows no plan"):
        cached.configure(fxcache.plan(steps=6, speedup=2))
    with pytest.raises(ConfigError, match="at most 1024 steps"):
        fxcache.transform(toy(), MADE_WITH.replace(steps_mask=(1,) * 1025))(*(latents(1, 0) + timesteps(1)))
    assert cached.cache_config == MADE_WITH


def test_plans_are_settings_too() -> None:
    first, second = fxcache.plan(steps=STEPS, speedup=2), fxcache.plan(steps=STEPS, speedup=3)
    cached = fxcache.transform(toy(), first)
    cached.configure(second)
    want, hits = alone(CacheConfig.from_plans(second))
    assert same(run(cached), want) and cached.stats()["default"].hits == hits
    with pytest.raises(GraphSettingError, match="follows plans"):
        cached.configure(ALWAYS)
    found = []
    for name, plan in (("one", None), ("other", first)):
        with cached.cache_context(name, plan):
            run(cached)
        found.append(cached.stats()[name].cached_steps)
    assert found == [second.hits, first.hits]


def test_it_can_be_switched_off_and_on() -> None:
    model = toy()
    cached = fxcache.transform(model, ALWAYS)
    for off in ({"enabled": False}, {"config": "C0_Q0_NONE"}):
        cached.configure(**off)  # type: ignore[arg-type]
        assert same(run(cached), run(model)) and cached.stats().cached == 0
        cached.configure(enabled=True)
        assert str(cached.cache_config) == ALWAYS
        run(cached)
        assert cached.stats()["default"].cached_steps == tuple(range(2, STEPS))
    with cached.cache_context("plain", "C0_Q0_NONE"):
        assert same(run(cached), run(model))
    assert len(cached._specializations.all()) == 1


def test_what_was_made_without_a_cache_may_get_any() -> None:
    model = toy()
    cached = fxcache.transform(model, "C0_Q0_NONE")
    assert same(run(cached), run(model))
    cached.configure(ALWAYS)
    assert same(run(cached), alone(ALWAYS)[0])
    with pytest.raises(GraphSettingError, match="fn_compute_blocks"):
        cached.configure(fn_compute_blocks=2)


# ------------------------------------------------------------------ settings of one request


def test_two_requests_with_settings_of_their_own_equal_each_alone() -> None:
    cached = fxcache.transform(toy(), MADE_WITH)
    requests = {"a": ALWAYS, "b": "F1B1_W4M0MC1_T1O1_R1000", "c": "C0_Q0_NONE"}
    _interleaved_as_alone(cached, requests)


def _interleaved_as_alone(model: CachedTransformer, requests: dict[str, str]) -> None:
    steps = {n: list(zip(latents(STEPS, i), timesteps(STEPS), strict=True)) for i, n in enumerate(requests)}
    found: dict[str, list[Tensor]] = {name: [] for name in requests}
    for step in range(STEPS):
        for name, config in requests.items():
            with model.cache_context(name, config):
                found[name].append(model(*steps[name][step]))
    for i, (name, config) in enumerate(requests.items()):
        want, hits = alone(config, seed=i)
        for got, expected in zip(found[name], want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        assert model.stats()[name].hits == hits


def test_settings_hold_in_the_contexts_of_a_pipeline_that_is_called_within() -> None:
    cached = fxcache.transform(toy(), MADE_WITH)
    steps = {seed: list(zip(latents(STEPS, seed), timesteps(STEPS), strict=True)) for seed in (0, 1)}
    found: dict[int, list[Tensor]] = {0: [], 1: []}
    for step in range(STEPS):
        for seed, config in enumerate((ALWAYS, "F1B1_W4M0MC1_T1O1_R1000")):
            with cached.cache_context("request", config), cached.cache_context("cond"):
                found[seed].append(cached(*steps[seed][step]))
    for seed, config in enumerate((ALWAYS, "F1B1_W4M0MC1_T1O1_R1000")):
        assert same(found[seed], alone(config, seed)[0])
    with cached.cache_context("cond"):  # outside: those of the model
        run(cached, seed=2)
    assert cached.stats()["cond"].hits == alone(MADE_WITH, seed=2)[1]


# ------------------------------------------------------------------ copies, compiled; tests/package: packaged


def test_settings_go_with_copies_and_pickles() -> None:
    cached = fxcache.transform(toy(), MADE_WITH)
    cached.configure(ALWAYS)
    want = run(cached)
    for other in (copy.copy(cached), copy.deepcopy(cached), pickle.loads(pickle.dumps(cached))):
        assert same(run(other), want)
        assert other.stats()["default"].cached_steps == tuple(range(2, STEPS))


@pytest.mark.parametrize("mode", sweep((None, "single", "staged"), ("single",)))
def test_compiled_it_is_not_compiled_again(mode: str | None) -> None:
    fast = fxcache.compile(fxcache.transform(toy(), MADE_WITH), mode=mode)
    fast.configure(ALWAYS)
    run(fast)  # compiles hits and misses
    with torch._dynamo.config.patch(error_on_recompile=True):
        for text in ("F1B1_W4M3MC1_T1O1_R1000_A2", "F1B1_W0M0MC0_T1O1_R0.01_S1101s", ALWAYS):
            fast.configure(text)
            want, hits = alone(text)
            for got, expected in zip(run(fast), want, strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
            assert fast.stats()["default"].hits == hits
