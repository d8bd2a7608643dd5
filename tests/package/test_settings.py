"""Settings are state of a package, too: one serves every setting of its graph, and every plan."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fxcache
from fxcache import CacheConfig, PackagedTransformer, Plan
from fxcache.errors import GraphSettingError, PackageUseError, PlanError
from tests.plans.reference import follow
from tests.toy import latents, timesteps, toy

from .conftest import PLAN, SETTING

STEPS = 12
ALWAYS = "F1B1_W2M0MC0_T1O1_R1000"


def run(model: Callable[..., Tensor], seed: int = 0) -> list[Tensor]:
    with torch.no_grad():
        return [model(x, t) for x, t in zip(latents(STEPS, seed, 2), timesteps(STEPS, 2), strict=True)]


def alone(config: CacheConfig | str, seed: int = 0) -> tuple[list[Tensor], tuple[bool, ...]]:
    """What a model does that was made with these settings."""
    cached = fxcache.transform(toy(), config)
    return run(cached, seed), cached.stats()["default"].hits


def test_one_package_serves_every_setting(toy_package: Path) -> None:
    package = fxcache.load(toy_package)
    assert package.cache_config == CacheConfig.from_string(SETTING)  # those in force at export
    for text in ("F1B1_W4M3MC1_T1O1_R1000_A2", "F1B1_W0M0MC0_T1O1_R0.01_S1101s", ALWAYS, "C0_Q0_NONE"):
        package.configure(text)
        want, hits = alone(text)
        for got, expected in zip(run(package), want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        assert package.stats()["default"].hits == hits
    package.configure(ALWAYS)
    for other in (copy.copy(package), copy.deepcopy(package), pickle.loads(pickle.dumps(package))):
        assert str(other.cache_config) == ALWAYS
        run(other)
        assert other.stats()["default"].cached_steps == tuple(range(2, STEPS))
    with pytest.raises(GraphSettingError, match="fn_compute_blocks"):
        package.configure(fn_compute_blocks=2)


def test_requests_through_one_package_have_settings_of_their_own(toy_package: Path) -> None:
    package = fxcache.load(toy_package)
    requests = {"a": ALWAYS, "b": "F1B1_W4M0MC1_T1O1_R1000", "c": "C0_Q0_NONE"}
    found: dict[str, list[Tensor]] = {name: [] for name in requests}
    times = timesteps(STEPS, 2)
    for step in range(STEPS):
        for seed, (name, config) in enumerate(requests.items()):
            with package.cache_context(name, config), torch.no_grad():
                found[name].append(package(latents(STEPS, seed, 2)[step], times[step]))
    for seed, (name, config) in enumerate(requests.items()):
        want, hits = alone(config, seed)
        for got, expected in zip(found[name], want, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        assert package.stats()[name].hits == hits


def test_who_keeps_the_state_himself_finds_the_settings_in_it(toy_package: Path) -> None:
    package = fxcache.load(toy_package)
    package.configure(ALWAYS)
    x, t = latents(4, 0, 2), timesteps(4, 2)
    state = package.new_state(package.input_sizes(x[0], t[0]))
    with torch.no_grad():
        for call in zip(x, t, strict=True):
            package.run(*call, *state.values())
    assert int(state["clock_0"][0, 3]) == 2  # hits


def test_a_package_that_has_no_settings_says_so(toy_package: Path) -> None:
    old = fxcache.load(toy_package)
    state = tuple(dataclasses.replace(e, name=e.name.replace("knobs", "mask")) for e in old.manifest.state)
    older = PackagedTransformer(dataclasses.replace(old.manifest, state=state), old.run)
    with pytest.raises(PackageUseError, match="export it again"):
        older.configure(ALWAYS)


LINE = Plan(
    steps=6,
    computed=(0, 1, 3, 5),
    weights=((1, 0, 0), (1, 0, 0), (0, 2, -1), (1.5, -1, 0.5), (0, 1.5, -0.5), (1, 0, 0)),
    timesteps=(1000, 800, 600, 400, 200, 100),
)


def test_one_package_serves_every_plan(planned_package: Path) -> None:
    package, model = fxcache.load(planned_package), toy()
    assert package.cache_config.plans == (PLAN,)
    other = LINE.replace(computed=(0, 5), weights=((1, 0), *[(0, 1)] * 4, (1, 0)))
    assert LINE.timesteps is not None
    calls = list(zip(latents(6, 0, 2), (torch.full((2,), float(t)) for t in LINE.timesteps), strict=True))
    for plan in (LINE, other, LINE):
        package.use(plan)
        with torch.no_grad():
            results = [package(*call) for call in calls]
            wanted = follow(plan, [lambda call=call: model(*call) for call in calls])
        for got, want in zip(results, wanted, strict=True):
            torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)
        assert package.stats()["default"].cached_steps == plan.hits
    with pytest.raises(PlanError, match="caches the output"):
        package.use(LINE.replace(level="residual"))
