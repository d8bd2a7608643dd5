"""`pristine`: whatever a trace stores in Python state is gone afterwards, and nothing else is."""

from __future__ import annotations

import collections
import functools
import sys
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from fxcache.environment.executed_code import names_of
from fxcache.environment.trace_sandbox import Sandbox, pristine

MEMO: dict[str, Any] = {}


class Helper:
    __slots__ = ("slot",)


class Hiding(Helper):
    """As paths are in Python 3.13: what was a slot is computed here."""

    __slots__ = ()

    @property
    def slot(self) -> object:  # type: ignore[override]
        return object()


class Kept:
    count = 0
    table: ClassVar[dict[str, Any]] = {}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.items: list[Any] = [1, 2]
        self.table: dict[str, Any] = {"a": 1, "b": 2}
        self.queue: collections.deque[Any] = collections.deque([1])
        self.seen: set[Any] = {1}
        self.helper = Helper()
        self.helper.slot = 1
        self.deep = {"x": [{"y": (self.helper, {"z": 0})}]}
        self.register_buffer("rows", torch.zeros(2))


def fake() -> Tensor:
    with FakeTensorMode():
        return torch.zeros(2)


CHANGES: dict[str, Callable[[Model], Any]] = {
    "attribute": lambda m: setattr(m, "new", fake()),
    "removed": lambda m: delattr(m, "table"),
    "list": lambda m: m.items.append(fake()),
    "list_order": lambda m: m.items.reverse(),
    "dict": lambda m: m.table.update(c=fake()),
    "dict_removed": lambda m: m.table.pop("a"),
    "deque": lambda m: m.queue.append(fake()),
    "set": lambda m: m.seen.add(3),
    "slot": lambda m: setattr(m.helper, "slot", fake()),
    "deep": lambda m: m.deep["x"][0]["y"][1].update(z=fake()),
    "buffer": lambda m: setattr(m, "rows", fake()),
    "parameter": lambda m: setattr(m.layer, "weight", None),
    "data": lambda m: setattr(m.layer.weight, "data", torch.ones(2, 2)),
    "moved": lambda m: m.to(torch.float64),
    "child": lambda m: setattr(m, "layer", nn.Identity()),
    "hook": lambda m: m.layer.register_forward_hook(print),
    "mode": lambda m: m.train(not m.training),
}


def described(model: Model) -> Any:
    """What the model holds; tensors by identity."""
    return tree_map_only(Tensor, id, _held(model))


def _held(model: Model) -> Any:
    return (
        {k: v for k, v in model.__dict__.items() if not k.startswith("_")},
        list(model.items),
        list(getattr(model, "table", {}).items()),
        list(model.queue),
        set(model.seen),
        model.helper.slot,
        dict(model.deep["x"][0]["y"][1]),
        [(n, id(p), p.data_ptr(), p.dtype) for n, p in model.named_parameters()],
        [(n, id(b)) for n, b in model.named_buffers()],
        [(n, id(m)) for n, m in model.named_modules()],
        dict(model.layer._forward_hooks),
    )


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_undone(change: str) -> None:
    model = Model()
    before = described(model)
    with pristine(model):
        CHANGES[change](model)
        assert change in ("data", "moved") or described(model) != before
    assert described(model) == before


def test_a_slot_behind_a_property_is_left_alone() -> None:
    model = Model()
    model.hiding = Hiding()
    with pristine(model):
        model.items.append(fake())
    assert model.items == [1, 2]


def test_it_is_undone_after_an_error_as_well() -> None:
    model = Model()
    before = described(model)
    with pytest.raises(ZeroDivisionError), pristine(model):
        model.items.append(fake())
        raise ZeroDivisionError
    assert described(model) == before


def test_globals_classes_and_modules_that_code_writes_are_undone() -> None:
    model = Model()

    def forward(self: Model) -> None:
        sandbox.running(sys._getframe(), names_of(sys._getframe().f_code))
        MEMO["key"] = fake()
        Kept.count += 1
        Kept.table["key"] = fake()
        type(self).calls = 1

    with pristine(model) as sandbox:
        forward(model)
    assert MEMO == {} and Kept.table == {}
    assert Kept.count == 0 and not hasattr(Model, "calls")


def test_only_caches_that_hold_something_fake_are_emptied() -> None:
    class Result:
        def __init__(self, value: Any) -> None:
            self.value = value

    @functools.lru_cache
    def poisoned(size: int) -> Any:
        return {"deep": [Result(fake())]}

    @functools.lru_cache
    def mine(size: int) -> Tensor:
        return torch.zeros(size)

    kept = mine(2)
    with pristine(Model()):
        poisoned(2)
    assert poisoned.cache_info().currsize == 0
    assert mine(2) is kept and mine.cache_info().hits == 1


def test_a_sandbox_can_be_restored_more_than_once() -> None:
    model = Model()
    before = described(model)
    sandbox = Sandbox(model)
    for _ in range(2):
        CHANGES["list"](model)
        sandbox.restore()
        assert described(model) == before
