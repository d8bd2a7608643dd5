"""Policies in all that a graph becomes: settings, segments, rows, compiled, packaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fxcache
from fxcache import (
    Budget,
    CacheConfig,
    CachedTransformer,
    EasyCache,
    FixedInterval,
    ForecastError,
    GrowingWindow,
    MagCache,
    SeaCache,
    TaylorSeer,
    TeaCache,
)
from fxcache.errors import ConfigError, GraphSettingError, NotationError, SignalRequiredError
from tests.behaviour.zoo import find
from tests.sweep import sweep
from tests.toy import latents, timesteps, toy

STEPS = 10
CONFIGS = {
    "easycache": CacheConfig(
        fn_compute_blocks=0,
        level="output",
        policy=EasyCache(),
        max_warmup_steps=3,
        residual_diff_threshold=1.0,
        forecaster=TaylorSeer(order=1),
    ),
    "teacache": CacheConfig(
        fn_compute_blocks=0, policy=TeaCache((1.0, 0.1)), max_warmup_steps=2, residual_diff_threshold=0.35
    ),
    "forecast error": CacheConfig(
        fn_compute_blocks=1,
        policy=ForecastError(),
        max_warmup_steps=3,
        residual_diff_threshold=1.2,
        forecaster=TaylorSeer(order=2),
    ),
    "magcache": CacheConfig(
        fn_compute_blocks=0,
        policy=MagCache((1, 0.95, 0.9, 0.95)),
        max_warmup_steps=2,
        residual_diff_threshold=0.4,
    ),
    "growing window": CacheConfig(fn_compute_blocks=0, policy=GrowingWindow(), max_warmup_steps=2),
    "budget": CacheConfig(
        fn_compute_blocks=1, policy=Budget(), max_warmup_steps=2, residual_diff_threshold=2.0
    ),
}


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
    torch._dynamo.reset()


def run(model: Callable[..., Tensor], seed: int = 0, batch: int = 2, tokens: int = 5) -> list[Tensor]:
    times = timesteps(STEPS, batch)
    return [model(x, t) for x, t in zip(latents(STEPS, seed, batch, tokens), times, strict=True)]


def assert_alike(one: Any, other: CachedTransformer, **kind: int) -> None:
    for a, b in zip(run(one, **kind), run(other, **kind), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert one.stats()["default"].hits == other.stats()["default"].hits
    assert 0 < other.stats().cached < other.stats().steps


@pytest.mark.parametrize("name", CONFIGS)
def test_the_notation_and_plain_values_hold_them(name: str) -> None:
    config = CONFIGS[name]
    assert CacheConfig.from_string(str(config)) == config
    assert CacheConfig.from_dict(config.to_dict()) == config


def test_yaml_may_name_one() -> None:
    assert CacheConfig.from_yaml("fn_compute_blocks: 1\npolicy: budget").policy == Budget()


@pytest.mark.parametrize(
    ("mode", "name"),
    sweep(
        [(mode, name) for mode in ("fused", "single", "staged") for name in CONFIGS],
        [("fused", "easycache"), ("single", "teacache"), ("staged", "forecast error")],
    ),
)
def test_compiled_is_eager(mode: Any, name: str) -> None:
    eager = fxcache.transform(toy(), CONFIGS[name])
    compiled = fxcache.compile(fxcache.transform(toy(), CONFIGS[name]), mode=mode)
    assert_alike(compiled, eager)
    assert_alike(compiled, eager, seed=1)


@pytest.mark.parametrize("name", sweep(CONFIGS, ("easycache",)))
def test_packaged_is_eager(name: str, tmp_path: Path) -> None:
    eager = fxcache.transform(toy(), CONFIGS[name])
    example = {"hidden_states": latents(1, 0, batch=2)[0], "timestep": torch.ones(2)}
    package = fxcache.load(fxcache.export(eager, tmp_path / "toy.pt2", example))
    assert package.cache_config == CONFIGS[name]
    assert_alike(package, eager)
    assert_alike(package, eager, seed=1)


def test_numbers_of_a_policy_are_state() -> None:
    cached = fxcache.transform(toy(), CONFIGS["teacache"])
    run(cached)
    captured = cached.graph.program.capture
    for coefficients, threshold in (((3.0, 0.0), 0.5), ((0.5, 0.25), 1.0)):
        policy = TeaCache(coefficients)
        cached.configure(policy=policy, residual_diff_threshold=threshold)
        fresh = CONFIGS["teacache"].replace(policy=policy, residual_diff_threshold=threshold)
        alone = fxcache.transform(toy(), fresh)
        assert all(map(torch.equal, run(cached), run(alone)))
        assert cached.stats()["default"].hits == alone.stats()["default"].hits
    assert cached.graph.program.capture is captured


@pytest.mark.parametrize("other", [FixedInterval(2), TeaCache((1.0, 0.0, 0.0))])
def test_another_policy_is_another_graph(other: Any) -> None:
    cached = fxcache.transform(toy(), CONFIGS["teacache"])
    with pytest.raises(GraphSettingError, match="policy"):
        cached.configure(policy=other)


FLUX = find("FluxTransformer2DModel")


EACH = [TeaCache((0.5, 0.0)), MagCache((1, 0.9)), SeaCache(full_noise=1.0, grid=(3, 2))]


@pytest.mark.parametrize("policy", sweep(EACH, EACH[1:], ids=lambda p: type(p).__name__))
def test_each_segment_decides(policy: Any) -> None:
    model, inputs = FLUX.build()
    grid = inputs["hidden_states"].shape[1]
    if isinstance(policy, SeaCache):
        policy = SeaCache(full_noise=1.0, grid=(1, grid))
    config = CacheConfig(fn_compute_blocks=0, max_warmup_steps=2, residual_diff_threshold=0.15, policy=policy)
    cached = fxcache.transform(model, config, scope="list")
    for step in range(6):
        time = torch.full_like(inputs["timestep"], 1 - step / 6)
        moved = inputs["hidden_states"] * (1 + 0.02 * step)
        cached(**{**inputs, "hidden_states": moved, "timestep": time, "return_dict": False})
    segments = cached.stats()["default"].segments
    assert len(segments) == 2 and all(any(s.hits) and not all(s.hits) for s in segments)
    if policy.signal != "norm":  # what is looked at is the same
        assert segments[0].hits == segments[1].hits


def test_rows_decide_together_where_the_policy_can_tell_them_apart() -> None:
    config = CONFIGS["teacache"].replace(batch="every")
    cached, mean = fxcache.transform(toy(), config), fxcache.transform(toy(), CONFIGS["teacache"])
    moving = [torch.cat((x[:1], x[:1] * 0 + latents(1, 5)[0]), 0) for x in latents(STEPS, 0)]
    for x, t in zip(moving, timesteps(STEPS, 2), strict=True):  # the second row stands still
        cached(x, t), mean(x, t)
    every, averaged = (m.stats()["default"].residual_diffs for m in (cached, mean))
    assert every[2] > 1.3 * averaged[2]


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match='set level="output"'):
        CacheConfig(fn_compute_blocks=0, policy=EasyCache())
    with pytest.raises(ConfigError, match='set batch="mean"'):
        CacheConfig(fn_compute_blocks=0, level="output", policy=EasyCache(), batch="every")
    with pytest.raises(SignalRequiredError, match="a policy that needs no block"):
        CacheConfig(fn_compute_blocks=0, policy=Budget())
    with pytest.raises(ConfigError, match="be a policy such as"):
        CacheConfig(policy="dbcache")  # type: ignore[arg-type]
    with pytest.raises(NotationError, match="must be one of dbcache"):
        CacheConfig.from_string('F1B0_W4M0MC0_T0O1_R0.1_D{"name":"cache"}')
    with pytest.raises(ConfigError, match="ratios"):
        CacheConfig.from_dict({"fn_compute_blocks": 0, "policy": {"name": "magcache"}})
    for build in (
        lambda: TeaCache(()),
        lambda: TeaCache("12"),  # type: ignore[arg-type]
        lambda: MagCache((float("nan"),)),
        lambda: MagCache((1.0,) * 1025),
        lambda: FixedInterval(1),
        lambda: GrowingWindow(window=1.5),
        lambda: SeaCache(power=0),
        lambda: SeaCache(grid=(4,)),
    ):
        with pytest.raises(ConfigError):
            build()


def test_a_model_that_has_not_what_a_policy_looks_at_is_refused() -> None:
    config = CacheConfig(fn_compute_blocks=0, policy=SeaCache())
    cached = fxcache.transform(toy(), config)
    with pytest.raises(ConfigError, match="no grid in latents of 3 dimensions"):
        cached(latents(1, 0)[0], timesteps(1)[0])
    model, inputs = FLUX.build()
    with pytest.raises(ConfigError, match="which has another size"):
        fxcache.transform(model, config.replace(policy=SeaCache(grid=(9, 9))), example_inputs=inputs)
