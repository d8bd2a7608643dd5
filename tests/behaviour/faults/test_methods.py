"""B15: methods of the model that run its forward run it cached, from the stand-in. S9: gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import fxcache
from fxcache.errors import GradientWarning
from fxcache.runtime.forward_methods import runs_forward

from .base import EAGER, NEVER, WIDTH, Base, build, sample


def solver(model: Any, x: Tensor, timestep: Tensor) -> Tensor:
    return model(x, timestep) * 0.5


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


class Parent(Base):
    def guided(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.forward(x, timestep) * 2


class SamplerMixin:
    def by_mixin(self: Any, x: Tensor, timestep: Tensor) -> Tensor:
        return self(x, timestep) * 4


class Sampler(Parent, SamplerMixin):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward_with_cfg(self, x: Tensor, timestep: Tensor) -> Tensor:
        self.calls += 1
        return self.forward(x, timestep) + 1

    def by_call(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self(x, timestep=timestep) + 2

    def by_helper(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self._helper(x, timestep) + 3

    def _helper(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.by_call(x, timestep)

    def by_solver(self, x: Tensor, timestep: Tensor) -> Tensor:
        return solver(self, x, timestep)

    def by_keyword(self, x: Tensor, timestep: Tensor) -> Tensor:
        return functools.partial(solver, model=self)(x=x, timestep=timestep)

    def by_closure(self, x: Tensor, timestep: Tensor) -> Tensor:
        return next((lambda t: self.forward(x, t))(t) for t in (timestep,))

    def guided(self, x: Tensor, timestep: Tensor) -> Tensor:
        return super().guided(x, timestep) + 4

    @torch.no_grad()
    def by_decorated(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.forward(x, timestep)

    @decorated
    def by_bare_decorated(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.forward(x, timestep)

    def by_bound(self, x: Tensor, timestep: Tensor) -> Tensor:
        step = self.forward
        return step(x, timestep)

    def plain(self) -> int:
        return len(self.blocks)


NAMES = [
    "forward_with_cfg", "by_call", "by_helper", "by_solver", "by_keyword", "by_closure", "guided",
    "by_decorated", "by_bare_decorated", "by_bound", "by_mixin",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_b15_methods_run_cached(name: str) -> None:
    model = build(Sampler)
    exact, cached = fxcache.transform(model, NEVER), fxcache.transform(model, EAGER)
    calls = sample()
    with torch.no_grad():
        for call in calls:
            assert torch.equal(getattr(exact, name)(*call), getattr(model, name)(*call))
            getattr(cached, name)(*call)
    assert cached.stats()["default"].hits == (False, True, True, True)
    assert exact.stats()["default"].steps == 4
    if name == "forward_with_cfg":
        assert model.calls == 12 and cached.calls == 12 and "calls" not in cached.__dict__


def test_b15_methods_set_on_the_instance_and_inherited_calls() -> None:
    model = build(Sampler)
    model.own = MethodType(lambda self, x, t: self(x, t), model)
    cached = fxcache.transform(model, EAGER)
    with torch.no_grad():
        for call in sample():
            cached.own(*call)
    assert cached.stats()["default"].hits == (False, True, True, True)


def test_b15_other_methods_stay_the_originals() -> None:
    model = build(Sampler)
    cached = fxcache.transform(model, EAGER)
    assert cached.plain.__self__ is model and cached.plain() == 4
    for name in ("plain", "__init__"):
        assert not runs_forward(getattr(Sampler, name), Sampler)
    assert all(runs_forward(getattr(Sampler, name), Sampler) for name in NAMES)


# ---------------------------------------------------------------------- S9


class Options(Base):
    def forward(self, x: Tensor, timestep: Tensor, extra: Any = None) -> Tensor:
        first = extra[0] if isinstance(extra, (list, tuple)) else extra
        if isinstance(first, dict):
            first = first["value"]
        if first is not None and not isinstance(first, Tensor):
            first = first.value
        return super().forward(x if first is None else x + first, timestep)


@dataclass
class Holder:
    value: Tensor


WAYS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda t: t,
    "list": lambda t: [t],
    "tuple": lambda t: (t,),
    "dict": lambda t: {"value": t},
    "list of dicts": lambda t: [{"value": t}],
    "dataclass": Holder,
    "object": lambda t: SimpleNamespace(value=t),
    "list of objects": lambda t: [Holder(t)],
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_s9_gradients_asked_through_anything(way: Callable[[Tensor], Any]) -> None:
    model = build(Options)
    cached = fxcache.transform(model, EAGER)
    x, t = sample()[0]
    asked = torch.zeros(WIDTH, requires_grad=True)
    with pytest.warns(GradientWarning):
        cached(x, t, extra=way(asked)).sum().backward()
    ours, asked.grad = asked.grad, None
    model(x, t, extra=way(asked)).sum().backward()
    assert ours is not None and torch.equal(ours, asked.grad)
    assert not cached(x, t, extra=way(asked.detach())).requires_grad
    with torch.no_grad():
        assert not cached(x, t, extra=way(asked)).requires_grad


def test_s9_gradients_of_buffers_and_parameters() -> None:
    class Shifted(Base):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("shift", torch.zeros(WIDTH))

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return super().forward(x + self.shift, timestep)

    model = build(Shifted)
    cached = fxcache.transform(model, EAGER)
    model.shift.requires_grad_(True)
    with pytest.warns(GradientWarning):
        cached(*sample()[0]).sum().backward()
    assert model.shift.grad is not None
