"""`transform(method=)`: a model that is entered by another method than its forward."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import fxcache
from fxcache.errors import (
    CaptureError,
    ConfigError,
    NoMethodError,
    NoTimestepError,
    OtherMethodWarning,
)
from tests.behaviour.faults.base import EAGER, Base, build, sample

from .dit_cfg import FORM, DiT

HITS = (False, True, True, True)


class Guided(Base):
    """`guided` does not call the forward."""

    def guided(self, x: Tensor, t: Tensor, strength: float = 2.0) -> Tensor:
        for block in self.blocks:
            x = block(x) * strength
        return x

    def run(self, x: Tensor, t: Tensor, **options: Any) -> Tensor:
        return self.guided(x, t, **options) + 1

    def depth(self) -> int:
        return len(self.blocks)


def test_the_named_method_runs_cached_and_the_forward_does_not() -> None:
    model = build(Guided)
    cached = fxcache.transform(model, EAGER, method="guided")
    with torch.no_grad():
        results = [cached.guided(x, t) for x, t in sample()]
        assert cached.stats()["default"].hits == HITS
        for i, (x, t) in enumerate(sample()):
            assert torch.equal(results[i], model.guided(x, t)) is not HITS[i]
        x, t = sample()[0]
        with pytest.warns(OtherMethodWarning, match=r"what is cached is guided\(\)"):
            assert torch.equal(cached(x, t), model(x, t))
        assert torch.equal(cached(x, t), model(x, t))  # said once
    assert cached.depth() == 4 and cached.stats()["default"].hits == HITS
    assert list(inspect.signature(cached.guided).parameters) == ["x", "t", "strength"]


def test_methods_that_call_it_run_cached() -> None:
    cached = fxcache.transform(build(Guided), EAGER, method="guided")
    with torch.no_grad():
        for x, t in sample():
            cached.run(x, t, strength=2.0)
    assert cached.stats()["default"].hits == HITS


def test_copies_and_other_lowerings_keep_it() -> None:
    cached = fxcache.transform(build(Guided), EAGER, method="guided")
    copies = (
        copy.deepcopy(cached),
        pickle.loads(pickle.dumps(cached)),
        fxcache.compile(cached, backend="eager"),
    )
    for other in copies:
        with torch.no_grad():
            for x, t in sample():
                other.guided(x, t)
        assert other.stats()["default"].hits == HITS
    assert not cached.stats().contexts and fxcache.restore(cached) is cached.original


def test_a_pipeline_like_loop_over_the_bound_method() -> None:
    """DiT's samplers are handed `model.forward_with_cfg`."""
    plain = FORM.model()
    cached = fxcache.transform(FORM.model(), "F1B1_W1M0MC2_T1O1_R0", method="forward_with_cfg")
    step, exact = cached.forward_with_cfg, plain.forward_with_cfg
    with torch.no_grad():
        for call in FORM.calls(4):
            positional = (call["x"], call["t"], call["y"], call["cfg_scale"])
            assert torch.equal(step(*positional), exact(*positional))
    assert len(cached.specializations()) == 1
    cached.prepare(FORM.call(0.0))
    assert len(cached.specializations()) == 1


def test_a_method_that_is_replaced() -> None:
    model = build(Guided)
    cached = fxcache.transform(model, EAGER, method="guided")
    x, t = sample()[0]
    with torch.no_grad():
        cached.guided(x, t)
        model.guided = lambda x, t: model.blocks[1](model.blocks[0](x)) - 1  # type: ignore[method-assign]
        cached.reset()
        assert torch.equal(cached.guided(x, t), model.guided(x, t))


def test_gradients_and_errors_are_those_of_the_method() -> None:
    model = build(Guided)
    model.requires_grad_(True)
    cached = fxcache.transform(model, EAGER, method="guided")
    x, t = sample()[0]
    with pytest.warns(fxcache.errors.GradientWarning):
        assert cached.guided(x, t).requires_grad
    with torch.no_grad(), pytest.raises(TypeError, match="'t'"):
        cached.guided(x)


def test_what_cannot_be_a_method() -> None:
    model = build(DiT)
    with pytest.raises(NoMethodError, match="did you mean 'forward_with_cfg'"):
        fxcache.transform(model, EAGER, method="forward_with_cgf")
    with pytest.raises(NoMethodError, match="its own methods are guided, run, depth, forward"):
        fxcache.explain(build(Guided), EAGER, {}, method="zzz")
    for name in ("state_dict", "to"):
        with pytest.raises(NoMethodError):
            fxcache.transform(model, EAGER, method=name)
    model.stats = model.forward
    with pytest.raises(ConfigError, match="has a method of its own by this name"):
        fxcache.transform(model, EAGER, method="stats")
    with pytest.raises(NoTimestepError, match="x, t, strength"):
        fxcache.transform(build(Guided), EAGER, method="guided", timestep="time")


def test_a_hook_around_the_forward_that_a_method_calls_is_refused() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    model = FORM.model()
    add_hook_to_module(model, ModelHook())
    cached = fxcache.transform(model, EAGER, method="forward_with_cfg")
    with torch.no_grad(), pytest.raises(CaptureError, match=r"a hook of accelerate's .* leave out method="):
        cached.forward_with_cfg(**FORM.call(0.0))
