"""Option objects that callers pass, and how a model uses each."""

from __future__ import annotations

import collections
import enum
import functools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .spec import Spec


class Slots:
    """An object without a `__dict__`."""

    __slots__ = ("bias", "scale")

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.bias = [0.1, scale]


class Plain:
    """An object with attributes and methods."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def apply(self, x: Tensor) -> Tensor:
        return x * self.scale


class Callable_:
    """A callable whose attributes say what it does."""

    def __init__(self, scale: float) -> None:
        self.settings = {"scale": scale}

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.settings["scale"]


@dataclass
class Guide:
    """A dataclass of tensors."""

    shift: Tensor
    scale: Tensor


class Names(NamedTuple):
    """A tuple with names."""

    scale: float
    bias: float


class Mode(enum.Enum):
    """Two modes."""

    COLD = 1.0
    WARM = 1.25


def _nested_closure(scale: float) -> Callable[[Tensor], Tensor]:
    inner = functools.partial(_scaled, scale=scale)
    return lambda x: [inner][0](x)


def _defaults(scale: float) -> Callable[[Tensor], Tensor]:
    def apply(x: Tensor, factor: float = scale, *, table: tuple[float, ...] = (scale, 1.0)) -> Tensor:
        return x * factor * table[1]

    return apply


def _generator(scale: float) -> torch.Generator:
    return torch.Generator().manual_seed(int(1000 * scale))


def _noisy(option: torch.Generator, x: Tensor) -> Tensor:
    return x + 0.01 * torch.randn(x.shape, generator=option).to(x.dtype)


def _scaled(x: Tensor, scale: float) -> Tensor:
    return x * scale


def _closure(scale: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * scale


def _six_levels(scale: float) -> dict[str, Any]:
    return {"a": {"b": [{"c": {"d": [scale]}}]}}


MAKE: dict[str, Callable[[float], Any]] = {
    "dict": lambda scale: {"scale": scale, "flags": [1, True, None], "name": "n"},
    "functions": lambda scale: [lambda x: x * 1.01, functools.partial(_scaled, scale=scale)],
    "closures": lambda scale: [_closure(scale)],
    "partial": lambda scale: functools.partial(_scaled, scale=scale),
    "bound_method": lambda scale: Plain(scale).apply,
    "slots": Slots,
    "dataclass_of_tensors": lambda scale: Guide(torch.full((1,), 0.1), torch.full((1,), scale)),
    "numpy": lambda scale: np.array([scale, 0.5], dtype=np.float32),
    "six_levels": _six_levels,
    "number": lambda scale: scale,
    "mode": lambda scale: "warm" if scale > 1.05 else "cold",
    "plain_object": Plain,
    "callable_with_attributes": Callable_,
    "named_tuple": lambda scale: Names(scale, 0.1),
    "enum": lambda scale: Mode.WARM if scale > 1.05 else Mode.COLD,
    "set": lambda scale: {scale, 0.5},
    "range": lambda scale: range(int(100 * scale)),
    "uuid": lambda scale: uuid.UUID(int=int(100 * scale)),
    "nested_closure": _nested_closure,
    "defaults": _defaults,
    "ordered_dict": lambda scale: collections.OrderedDict(scale=scale, bias=0.1),
    "torch_generator": _generator,
}

OPTIONS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "dict": lambda o, x: x * o["scale"],
    "functions": lambda o, x: functools.reduce(lambda value, function: function(value), o, x),
    "closures": lambda o, x: functools.reduce(lambda value, function: function(value), o, x),
    "partial": lambda o, x: o(x),
    "bound_method": lambda o, x: o(x),
    "slots": lambda o, x: x * o.scale + sum(o.bias),
    "dataclass_of_tensors": lambda o, x: x * o.scale + o.shift,
    "numpy": lambda o, x: x * float(o[0]) + torch.from_numpy(o)[1],
    "six_levels": lambda o, x: x * o["a"]["b"][0]["c"]["d"][0],
    "number": lambda o, x: x * o,
    "mode": lambda o, x: x + 0.1 if o == "warm" else x,
    "plain_object": lambda o, x: x * o.scale,
    "callable_with_attributes": lambda o, x: o(x),
    "named_tuple": lambda o, x: x * o.scale + o.bias,
    "enum": lambda o, x: x * o.value,
    "set": lambda o, x: x * max(o),
    "range": lambda o, x: x * (len(o) / 100),
    "uuid": lambda o, x: x * (o.int / 100),
    "nested_closure": lambda o, x: o(x),
    "defaults": lambda o, x: o(x),
    "ordered_dict": lambda o, x: x * o["scale"] + o["bias"],
    "torch_generator": _noisy,
}


def _write_set(option: set[float], scale: float) -> None:
    option.clear()
    option.update((scale, 0.5))


def _write_six(option: Any, scale: float) -> None:
    option["a"]["b"][0]["c"]["d"][0] = scale


def _set(path: str) -> Callable[[Any, float], None]:
    def write(option: Any, scale: float) -> None:
        holder = option.__self__ if path == "__self__" else option
        holder.scale = scale

    return write


WRITE: dict[str, Callable[[Any, float], None]] = {
    "dict": lambda option, scale: option.update(scale=scale),
    "functions": lambda option, scale: option.__setitem__(1, functools.partial(_scaled, scale=scale)),
    "bound_method": _set("__self__"),
    "slots": _set(""),
    "plain_object": _set(""),
    "dataclass_of_tensors": lambda option, scale: option.scale.fill_(scale),
    "numpy": lambda option, scale: option.__setitem__(0, scale),
    "six_levels": _write_six,
    "set": _write_set,
    "ordered_dict": lambda option, scale: option.update(scale=scale),
    "callable_with_attributes": lambda option, scale: option.settings.update(scale=scale),
}
"""How one and the same object is changed between calls, where that is possible."""


def values(spec: Spec) -> Iterator[Any]:
    """The option of each call: one object, new equal ones, or ones that change, in place where that goes."""
    if spec.option == "none":
        while True:
            yield None
    make, write = MAKE[spec.option], WRITE.get(spec.option)
    kept, number = make(1.01), 0
    while True:
        scale = 1.01 + 0.05 * number if spec.option_changes else 1.01
        if spec.seed % 2 and write is not None:
            if spec.option_changes:
                write(kept, scale)
            yield kept
        else:
            yield make(scale)
        number += 1
