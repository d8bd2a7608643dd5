"""B18: a copied pipeline holds a cached denoiser with an original of its own, and gives the same picture."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache import CachedTransformer
from tests.behaviour.pipelines.build import FLUX, SD3, WAN, PipelineCase
from tests.sweep import sweep

from .base import EAGER, Base, build, sample

CONFIG = "F1B0_W1M0MC0_T0O1_R0.6"
COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "copy of a copy": lambda value: copy.deepcopy(copy.deepcopy(value)),
}


STATES = ("fresh", "used", "lowered")


def hits(pipe: Any, name: str = "transformer") -> dict[str, tuple[bool, ...]]:
    return {label: c.hits for label, c in getattr(pipe, name).stats().contexts.items()}


WAYS = [(case, way, state) for case in (FLUX, SD3, WAN) for way in COPIES for state in STATES]
FEW_WAYS = ((WAN, "pickle", "used"),)  # two denoisers; single models are copied in every way below


@pytest.mark.parametrize(
    ("case", "way", "state"), sweep(WAYS, FEW_WAYS, ids=lambda w: "-".join((w[0].name, *w[1:])))
)
def test_b18_a_copied_pipeline_gives_the_same_picture(case: PipelineCase, way: str, state: str) -> None:
    clone = COPIES[way]
    # Weights read from a file need not be aligned, and kernels round otherwise then; a copy's always are.
    pipe = fxcache.transform(copy.deepcopy(case.load()), CONFIG)
    if state == "lowered":
        for name in case.denoisers:
            getattr(pipe, name).compile(backend="eager")
    if state != "fresh":
        case.run(pipe)
    other = clone(pipe)
    for name in case.denoisers:
        ours, theirs = getattr(pipe, name), getattr(other, name)
        assert type(theirs) is CachedTransformer and isinstance(theirs, type(ours.original))
        assert sum(isinstance(c, CachedTransformer) for c in other.components.values()) == len(case.denoisers)
        mine = {id(p) for p in ours.parameters()}
        assert not any(id(p) in mine for p in theirs.parameters())
        assert not theirs.stats().contexts
    expected = case.run(pipe)
    assert torch.equal(case.run(other), expected)
    assert hits(other) == hits(pipe) and any(any(h) for h in hits(pipe).values())
    with torch.no_grad():  # and neither knows of the other
        next(iter(other.transformer.parameters())).zero_()
        assert torch.equal(case.run(pipe), expected)
        assert not torch.equal(case.run(other), expected)
    fxcache.restore(other)
    assert not isinstance(other.transformer, CachedTransformer)
    assert isinstance(pipe.transformer, CachedTransformer)


def test_b18_one_denoiser_that_is_held_twice_stays_one() -> None:
    cached = fxcache.transform(build(Base), EAGER)
    for clone in COPIES.values():
        left, right = clone([cached, {"again": cached}])
        assert left is right["again"] and left is not cached


def add_one(module: nn.Module, args: Any, result: Tensor) -> Tensor:
    return result + 1


@pytest.mark.parametrize("clone", [*COPIES.values(), lambda c: fxcache.compile(c, backend="eager")])
def test_b18_what_hangs_on_the_cached_model_hangs_on_its_copy(clone: Callable[[Any], Any]) -> None:
    cached = fxcache.transform(build(Base), EAGER)
    cached.register_forward_hook(add_one)
    expected = [cached.original(*sample()[0]) + 1]
    with torch.no_grad():
        other = clone(cached)
        assert torch.equal(other(*sample()[0]), expected[0])
        other._forward_hooks.clear()
        assert torch.equal(cached(*sample()[0]), expected[0])


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda c: fxcache.compile(c, backend="eager")])
def test_b18_offloading_hooks_move_the_copy(clone: Callable[[Any], Any]) -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module

    class Seeing(ModelHook):
        def __init__(self) -> None:
            self.seen: list[nn.Module] = []

        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            return Seeing()

        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.seen.append(module)
            return args, kwargs

    cached = fxcache.transform(build(Base), EAGER)
    add_hook_to_module(cached, Seeing())
    other = clone(cached)
    with torch.no_grad():
        for call in sample(3):
            other(*call)
    assert other.stats()["default"].hits == (False, True, True) and not cached.stats().contexts
    assert all(module is other for module in other._hf_hook.seen) and len(other._hf_hook.seen) == 3
