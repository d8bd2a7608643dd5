"""B21: the mistakes of the first five minutes each get one line, with the name that was meant."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import fxcache
from fxcache import CacheConfig, HiCache, TaylorSeer
from fxcache.errors import ConfigError, FxcacheError, UnknownContextError, UnknownOptionError

from .base import EAGER, NEVER, Base, build, sample

INPUTS = dict(zip(("x", "timestep"), sample()[0], strict=True))


def one_line(error: BaseException, *kinds: type[BaseException]) -> None:
    assert "\n" not in str(error) and isinstance(error, FxcacheError)
    assert all(isinstance(error, kind) for kind in kinds)


FIELDS: dict[str, str] = {
    "Fn_compute_blocks": "fn_compute_blocks",
    "Bn_compute_blocks": "bn_compute_blocks",
    "fn_compute_block": "fn_compute_blocks",
    "max_warmup_step": "max_warmup_steps",
    "warmup_steps": "max_warmup_steps",
    "maxWarmupSteps": "max_warmup_steps",
    "residual_threshold": "residual_diff_threshold",
    "threshold": "residual_diff_threshold",
    "steps_computation_mask": "steps_mask",
    "enable_taylorseer": "forecaster",
    "forcaster": "forecaster",
    "enable": "enabled",
}


@pytest.mark.parametrize("name", FIELDS)
def test_b21_fields_of_a_config(name: str) -> None:
    made: list[Callable[[], Any]] = [
        lambda: CacheConfig(**{name: 1}),
        lambda: CacheConfig.from_dict({name: 1}),
        lambda: CacheConfig.from_yaml(f"{name}: 1\nenabled: true"),
        lambda: CacheConfig().replace(**{name: 1}),
        lambda: fxcache.transform(build(Base), {name: 1}),
    ]
    for make in made:
        with pytest.raises(UnknownOptionError, match=f"has no '{name}': did you mean '{FIELDS[name]}'") as e:
            make()
        one_line(e.value, TypeError, ValueError, ConfigError)


def test_b21_a_field_that_is_like_none() -> None:
    with pytest.raises(UnknownOptionError, match=r"has no 'zzz': it has fn_compute_blocks, "):
        CacheConfig(zzz=1)  # type: ignore[call-arg]
    with pytest.raises(UnknownOptionError, match="TaylorSeer has no 'ordr': did you mean 'order'"):
        TaylorSeer(ordr=1)  # type: ignore[call-arg]
    with pytest.raises(UnknownOptionError, match="HiCache has no 'Scale': did you mean 'scale'"):
        CacheConfig.from_dict({"forecaster": {"name": "hicache", "Scale": 0.5}})


def test_b21_configs_are_copied_as_before() -> None:
    config = CacheConfig(fn_compute_blocks=2, forecaster=HiCache(order=1))
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config.replace() == config
    assert CacheConfig(3, 1).fn_compute_blocks == 3


def test_b21_options_of_the_verbs(tmp_path: Path) -> None:
    cached = fxcache.transform(build(Base), NEVER)
    target = tmp_path / "a.pt2"
    wrong: dict[str, Callable[[], Any]] = {
        "'scope'": lambda: fxcache.transform(build(Base), NEVER, scop="list"),
        "'on_unsupported'": lambda: fxcache.transform(build(Base), NEVER, on_unsuported="raise"),
        "'example_inputs'": lambda: fxcache.transform(build(Base), NEVER, example_input=INPUTS),
        "'max_contexts'": lambda: fxcache.transform(build(Base), NEVER, max_context=3),
        r"'config=CacheConfig\(fn_compute_blocks=": lambda: fxcache.transform(
            build(Base), Fn_compute_blocks=1
        ),
        r"'config=CacheConfig\(residual_diff_": lambda: fxcache.transform(
            build(Base), residual_diff_threshold=1
        ),
        "'fullgraph'": lambda: fxcache.compile(cached, fullgrph=True),
        "'dynamic'": lambda: fxcache.compile(cached, dynamc=True),
        "'mode'": lambda: fxcache.compile(cached, mod="fused"),
        "'dynamic' ": lambda: fxcache.export(cached, target, INPUTS, dynamik=False),
        "'max_autotune'": lambda: fxcache.export(cached, target, INPUTS, max_autotun=True),
        "'timestep'": lambda: fxcache.explain(build(Base), NEVER, INPUTS, timstep="t"),
        "'device_index'": lambda: fxcache.load(target, device_idx=1),
    }
    for meant, call in wrong.items():
        with pytest.raises(UnknownOptionError, match=rf"fxcache\.\w+\(\) has no .*mean {meant.strip()}") as e:
            call()
        one_line(e.value, TypeError)


def test_b21_statistics_of_a_context_that_is_not_there() -> None:
    cached = fxcache.transform(build(Base), EAGER)
    with pytest.raises(UnknownContextError, match=r"no context 'cond': no step was run yet"):
        cached.stats()["cond"]
    with torch.no_grad(), cached.cache_context("uncond"):
        cached(*sample()[0])
    with pytest.raises(
        UnknownContextError, match=r"^stats\(\) has no context 'unconds': .* 'uncond'\?$"
    ) as e:
        cached.stats()["unconds"]
    one_line(e.value, KeyError)
    with pytest.raises(KeyError, match="there are uncond"):
        cached.stats()["default"]


def test_b21_inputs_in_half_precision() -> None:
    model = build(Base)
    cached = fxcache.transform(model, NEVER)
    x, t = sample()[0]
    with torch.no_grad():
        with pytest.raises(RuntimeError) as plain:
            model(x.half(), t)
        for _ in range(2):
            with pytest.raises(RuntimeError) as ours:
                cached(x.half(), t)
            assert str(ours.value) == str(plain.value)
        assert torch.equal(cached(x, t), model(x, t))


def test_messages_name_what_was_asked() -> None:
    cached = fxcache.transform(build(Base), NEVER)
    messages: dict[str, Callable[[], Any]] = {
        r"^scope='block' of fxcache\.transform\(\): it must be": lambda: fxcache.transform(
            build(Base), NEVER, scope="block"
        ),
        r"^on_unsupported='no' of fxcache\.transform\(\)": lambda: fxcache.transform(
            build(Base), NEVER, on_unsupported="no"
        ),
        r"^mode='fast' of fxcache\.compile\(\) must be one of": lambda: fxcache.compile(cached, mode="fast"),
        r"^what is given to fxcache\.compile\(\) must be what fxcache\.transform": lambda: fxcache.compile(
            build(Base)
        ),
        r"^CacheConfig\.max_warmup_steps = -1: must be": lambda: CacheConfig(max_warmup_steps=-1),
    }
    for message, call in messages.items():
        with pytest.raises(FxcacheError, match=message) as error:
            call()
        one_line(error.value)
