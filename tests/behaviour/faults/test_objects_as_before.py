"""The user's objects are as before: after captures, calls, statistics, explanations and refusals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache import CacheConfig
from fxcache.errors import (
    ArgumentsError,
    FxcacheError,
    NoBlocksError,
    TooManyBlocksError,
    TooManyContextsError,
)
from tests.behaviour.fuzz.calls import around, steps
from tests.behaviour.fuzz.models import build as build_form
from tests.behaviour.fuzz.spec import AXES, Spec, canonical
from tests.behaviour.zoo import ALL_CASES, ZooCase, find
from tests.behaviour.zoo.tiers import REFUSED, over
from tests.sweep import sweep

from .base import EAGER, NEVER, Base, build, sample
from .snapshot import Snapshot, asked, changed, fakes, remembered, snapshot

SOME = (
    "Lumina2Transformer2DModel",  # real tensors
    "WanTransformer3DModel",
)
CACHED = CacheConfig(fn_compute_blocks=1, max_warmup_steps=1, residual_diff_threshold=1e6)
Call = Callable[[Any], Any]


def _inputs(case: ZooCase) -> list[Mapping[str, Any]]:
    found = [case.fresh_inputs(seed) for seed in (3, 4, 4)]
    if case.resize is not None:
        found.append(case.resize(found[0]))
    return found


def _assert_as_before(
    model: nn.Module, before: Snapshot, memory: Mapping[str, int], allowed: Mapping[str, Any]
) -> None:
    """Nothing but `allowed`, what the plain model does to itself, is other than before."""
    found = {name: how for name, how in changed(before, snapshot(model)).items() if name not in allowed}
    assert not found, dict(list(found.items())[:8])
    assert not fakes(model)
    emptied = {n: c for n, c in memory.items() if remembered(model).get(n, 0) < c}
    assert not emptied, f"somebody's lru_cache was cleared: {emptied}"


def _changed_by_itself(twin: nn.Module, calls: list[Call]) -> dict[str, Any]:
    before = snapshot(twin)
    for call in calls:
        call(twin)
    return changed(before, snapshot(twin))


def _check(model: nn.Module, twin: nn.Module, calls: list[Call], config: Any = CACHED) -> dict[str, int]:
    """Capture, call and count `model`; its twin is only called.

    A function that remembers what the forward itself asks it for is emptied of fake tensors as a whole; the
    others are returned, with how much they hold.
    """
    calm = asked(twin)
    allowed = _changed_by_itself(twin, calls)
    own = {name for name, count in asked(twin).items() if count != calm.get(name, 0)}
    before, memory = snapshot(model), {n: c for n, c in remembered(model).items() if n not in own}
    cached = fxcache.transform(model, config)
    _assert_as_before(model, before, memory, {})
    for call in calls:
        call(cached)
    str(cached.stats())
    cached.reset()
    _assert_as_before(model, before, memory, allowed)
    return memory


def _called_with(inputs: Mapping[str, Any]) -> Call:
    def call(model: Any) -> None:
        with torch.no_grad():
            model(**inputs)

    return call


def _check_case(case: ZooCase) -> None:
    model, first = case.build()
    memory = _check(model, case.build()[0], [_called_with(inputs) for inputs in _inputs(case)])
    before = snapshot(model)
    fxcache.explain(model, CACHED, first)
    _assert_as_before(model, before, memory, {})


@pytest.mark.parametrize("name", sweep(SOME, SOME[1:]))
def test_requirement_4_some_classes_are_as_before(name: str) -> None:
    _check_case(find(name))


@pytest.mark.full
@over(ALL_CASES, but=(*REFUSED, *SOME))
def test_requirement_4_every_class_is_as_before(case: ZooCase) -> None:
    _check_case(case)


@pytest.mark.parametrize("name", sweep(REFUSED, tuple(REFUSED)[:1]))
def test_requirement_4_a_class_that_is_refused_is_as_before(name: str) -> None:
    case = find(name)
    model, inputs = case.build()
    before, memory = snapshot(model), remembered(model)
    for attempt in (
        lambda: fxcache.transform(model, CACHED)(**inputs),
        lambda: fxcache.explain(model, CACHED, inputs),
    ):
        with pytest.raises(FxcacheError), torch.no_grad():
            attempt()
        _assert_as_before(model, before, memory, {})


# ---------------------------------------------------------------------- small models, of every form


FORMS = [
    canonical(Spec(**{axis: word}, change_at=(1,)))  # type: ignore[arg-type]
    for axis in ("container", "streams", "result", "in_place", "context", "option", "state", "glue", "sizes")
    for word in AXES[axis]
]


FEW = [
    canonical(Spec(**words, change_at=(1,)))
    for words in (
        {"container": "helper_object"},
        {"streams": "long_skips"},
        {"in_place": "callers_tensor"},
        {"context": "autocast"},
        {"option": "six_levels"},
        {"state": "lru_method"},
        {"glue": "storage_swap"},
        {"sizes": "tokens"},
    )
]


@pytest.mark.parametrize("spec", sweep(dict.fromkeys(FORMS), FEW))
def test_requirement_4_every_form_is_as_before(spec: Spec) -> None:
    """Refused or not: a refused call changes nothing, others what the plain model would."""
    model, twin = build_form(spec), build_form(spec)
    for config in (NEVER, EAGER):
        cached = fxcache.transform(model, config)
        for step, same in zip(steps(spec), steps(spec), strict=True):
            before, memory, before_twin = snapshot(model), remembered(model), snapshot(twin)
            with around(spec):
                twin(**same.arguments)
                allowed = changed(before_twin, snapshot(twin))
                try:
                    cached(**step.arguments)
                except FxcacheError:
                    allowed = {}
            _assert_as_before(model, before, memory, allowed)
        cached.stats()


class NoChain(Base):
    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.blocks[0](x)


def _too_many_contexts(model: nn.Module) -> None:
    cached = fxcache.transform(model, NEVER, max_contexts=1)
    for name in ("cond", "uncond"):
        with cached.cache_context(name):
            cached(*sample(1)[0])


REFUSALS: dict[str, tuple[type[Base], type[FxcacheError], Call]] = {
    "blocks": (NoChain, NoBlocksError, lambda m: fxcache.transform(m, NEVER)(*sample(1)[0])),
    "too many": (
        Base,
        TooManyBlocksError,
        lambda m: fxcache.transform(m, CACHED.replace(fn_compute_blocks=9))(*sample(1)[0]),
    ),
    "contexts": (Base, TooManyContextsError, _too_many_contexts),
    "arguments": (Base, ArgumentsError, lambda m: fxcache.transform(m, NEVER).specialization_for({"x": 1})),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_requirement_4_a_refused_call_leaves_the_model_as_before(name: str) -> None:
    kind, error, attempt = REFUSALS[name]
    model = build(kind)
    before, memory = snapshot(model), remembered(model)
    with pytest.raises(error), torch.no_grad():
        attempt(model)
    _assert_as_before(model, before, memory, {})


def test_requirement_4_the_models_own_error_leaves_it_as_before() -> None:
    model = build(Base)
    cached = fxcache.transform(model, NEVER)
    before, memory = snapshot(model), remembered(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), torch.no_grad():
        cached(torch.ones(1, 5, 3), torch.ones(1))
    _assert_as_before(model, before, memory, {})


def test_requirement_4_the_snapshot_sees_what_changes() -> None:
    """Of the test itself: each of these shows."""
    model = build(Base)
    model.memo = {"a": [1]}  # type: ignore[assignment]

    def differs(change: Callable[[], Any]) -> bool:
        before = snapshot(model)
        change()
        return bool(changed(before, snapshot(model)))

    assert not differs(lambda: None)
    assert differs(lambda: model.memo["a"].append(2))
    assert differs(lambda: model.blocks[0].mix.weight.mul_(1.0))
    assert differs(
        lambda: setattr(model.blocks[0].mix.weight, "data", model.blocks[0].mix.weight.data.clone())
    )
    assert differs(lambda: model.blocks[1].register_forward_hook(print))
    assert differs(lambda: setattr(Base, "extra", 1))
    delattr(Base, "extra")
    assert differs(lambda: setattr(model.blocks[1], "_compiled_call_impl", len))
    assert differs(lambda: torch.rand(1))
