"""`fingerprint` and `opened`: equal keys for values that a graph may take for one another, and only these."""

from __future__ import annotations

import array
import collections
import dataclasses
import enum
import functools
import gc
import itertools
import pathlib
import uuid
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from fxcache.environment.fingerprint import LIMIT, Fingerprint, fingerprint
from fxcache.environment.values import Held, UntellableError, exact, opened


class Slotted:
    __slots__ = ("__secret", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.__secret = value


class Plain:
    def __init__(self, value: Any) -> None:
        self.value = value


@dataclasses.dataclass
class Record:
    value: Any


class Row(NamedTuple):
    value: Any


class Kind(enum.Enum):
    A = 1
    B = 2


def closure(value: Any) -> Callable[[], Any]:
    return lambda: value


def default(value: Any) -> Callable[..., Any]:
    def function(given: Any = value) -> Any:
        return given

    return function


def keyword(value: Any) -> Callable[..., Any]:
    def function(*, given: Any = value) -> Any:
        return given

    return function


def attribute(value: Any) -> Callable[[], None]:
    def function() -> None: ...

    function.value = value  # type: ignore[attr-defined]
    return function


def six_levels(value: Any) -> Any:
    return {"a": [{"b": (Plain([{"c": Slotted(value)}]),)}]}


WRAPPINGS: tuple[Callable[[Any], Any], ...] = (
    lambda v: v,
    lambda v: [v],
    lambda v: (v,),
    lambda v: {"key": v},
    lambda v: {v: "value"},
    lambda v: {v},
    lambda v: frozenset((v,)),
    lambda v: collections.OrderedDict(key=v),
    lambda v: collections.defaultdict(list, key=v),
    lambda v: collections.deque([v]),
    lambda v: functools.partial(print, v),
    lambda v: functools.partial(print, sep=v),
    Slotted,
    Plain,
    Record,
    Row,
    closure,
    default,
    keyword,
    attribute,
    six_levels,
    lambda v: Plain(v).__init__,  # type: ignore[misc]  # a bound method
    lambda v: np.array([v]),
    lambda v: np.float64(v),
    lambda v: array.array("d", [v]),
    lambda v: slice(v),
    lambda v: range(int(v)),
    lambda v: pathlib.Path(str(v)),
    lambda v: uuid.UUID(int=int(v)),
    lambda v: complex(v, 0),
)


@pytest.mark.parametrize("wrap", WRAPPINGS)
def test_made_again_it_is_equal_and_with_another_value_it_is_not(wrap: Callable[[Any], Any]) -> None:
    assert fingerprint(wrap(3)) == fingerprint(wrap(3))
    assert hash(fingerprint(wrap(3))) == hash(fingerprint(wrap(3)))
    assert fingerprint(wrap(3)) != fingerprint(wrap(4))


ALL_DIFFERENT = (
    0, False, 0.0, -0.0, 0j, "", b"", None, (), [], {}, set(), frozenset(), float("nan"), 1, True, 1.0,
    "1", b"1", (1,), [1], {1: 1}, {1}, {True}, frozenset((1,)), range(1), range(0, 1, 2), slice(1),
    Kind.A, Kind.B, np.float32(1), np.float64(1), np.array([1]), np.array([1.0]), np.array([[1]]),
    torch.float32, torch.float16, torch.device("cpu"), Plain(1), Slotted(1), Record(1), Row(1),
    Plain, Slotted, len, print, [[]], [()], bytearray(b"1"),
)  # fmt: skip


def test_values_that_python_takes_for_equal_are_told_apart() -> None:
    keys = [fingerprint(value) for value in ALL_DIFFERENT]
    alike = [
        (ALL_DIFFERENT[i], ALL_DIFFERENT[j])
        for i, j in itertools.combinations(range(len(keys)), 2)
        if keys[i] == keys[j]
    ]
    assert alike == []
    assert [fingerprint(value) for value in ALL_DIFFERENT] == keys


def test_exact_counts_bits() -> None:
    assert exact(float("nan")) == exact(float("nan"))
    assert exact(0.0) != exact(-0.0)
    assert exact(1.5) == 1.5


def test_what_counts_by_identity_lives_as_long_as_the_key() -> None:
    module = nn.Linear(1, 1)
    gone = weakref.ref(module)
    key = fingerprint([module])
    del module
    gc.collect()
    assert gone() is not None
    assert fingerprint([nn.Linear(1, 1)]) != key
    del key
    gc.collect()
    assert gone() is None


def test_what_is_one_object_twice_is_not_two_equal_ones() -> None:
    one, other = [1], [1]
    assert fingerprint([one, one]) != fingerprint([one, other])
    loop: list[Any] = []
    loop.append(loop)
    assert fingerprint(loop) == fingerprint(loop)


def test_order_of_items_and_of_keys_counts() -> None:
    assert fingerprint({"a": 1, "b": 2}) != fingerprint({"b": 2, "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])
    assert fingerprint({1, 2, 3}) == fingerprint({3, 2, 1})


def test_tensors_count_by_identity_and_writes() -> None:
    tensor = torch.zeros(2)
    key = fingerprint([tensor])
    assert fingerprint([tensor]) == key
    assert fingerprint([torch.zeros(2)]) != key
    tensor.add_(1)
    assert fingerprint([tensor]) != key


def test_inference_tensors_count_by_content() -> None:
    with torch.inference_mode():
        tensor = torch.zeros(2)
        key = fingerprint([tensor])
        assert fingerprint([tensor]) == key
        tensor.add_(1)
        assert fingerprint([tensor]) != key
        assert fingerprint([tensor], contents=False) == fingerprint([tensor], contents=False)


def test_a_parameter_that_is_trained_on_is_the_same() -> None:
    layer = nn.Linear(2, 2)
    key = fingerprint(layer)
    with torch.no_grad():
        layer.weight.add_(1)
    assert fingerprint(layer) == key
    layer.eval()
    assert fingerprint(layer) != key


def test_code_counts_not_the_name_of_a_function() -> None:
    one, same, other = (eval(text) for text in ("lambda x: x + 1", "lambda x: x + 1", "lambda x: x + 2"))
    assert fingerprint(one) == fingerprint(same) != fingerprint(other)


FACTOR = [1.0]


def test_a_global_that_a_function_names_counts() -> None:
    def scaled(x: float) -> float:
        return x * FACTOR[0]

    key = fingerprint(scaled)
    FACTOR[0] = 2.0
    try:
        assert fingerprint(scaled) != key
    finally:
        FACTOR[0] = 1.0
    assert fingerprint(scaled) == key


@pytest.mark.parametrize("value", [iter([1]), (i for i in range(2)), open(__file__)])  # noqa: SIM115
def test_what_cannot_be_looked_into_is_refused(value: Any) -> None:
    with pytest.raises(UntellableError):
        fingerprint({"deep": [value]})


def test_too_many_values_are_refused() -> None:
    fingerprint(list(range(LIMIT // 2)))
    with pytest.raises(UntellableError, match=r"list of more than 100,000 values"):
        fingerprint([list(range(LIMIT)) for _ in range(3)])


def test_deep_nesting_needs_no_recursion() -> None:
    deep: list[Any] = []
    for _ in range(20_000):
        deep = [deep]
    assert fingerprint(deep)[0] is list


def test_opened_says_what_a_value_is_made_of() -> None:
    description, parts = opened(Plain(5))
    assert description is None and parts == [Plain, {"value": 5}]
    description, parts = opened(torch.Generator())
    assert isinstance(description, Held) and parts == []
    assert isinstance(fingerprint(1), Fingerprint)
