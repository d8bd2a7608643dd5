"""Trees of values with the tensors cut out: how a call is written down, and put together again.

Containers are those of `torch.utils._pytree`. Dataclasses of tensors, which it does not know, are opened
as well among a call's arguments and where a leaf takes or returns one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..torch_private import pytree

DYNAMIC = (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool)


@dataclass(frozen=True)
class Slot:
    """Place of the i-th dynamic value (tensor or symbolic number) in a flattened structure."""

    index: int


@dataclass(frozen=True)
class Fields:
    """A dataclass instance, opened: `content` is the structure of its fields, a dict."""

    kind: type
    content: Structure


@dataclass
class Structure:
    """A pytree whose dynamic leaves are cut out; `constants` keeps a `Slot` where each one was."""

    constants: list[Any]
    spec: pytree.TreeSpec

    @functools.cached_property
    def _is_tuple(self) -> bool:
        """Whether this is the dynamic leaves as a tuple, in order: the usual output, filled on every step."""
        places = tuple(c.index if isinstance(c, Slot) else None for c in self.constants)
        return places == tuple(range(len(places))) and self.spec == pytree.tree_structure(places)

    @staticmethod
    def of(tree: Any, fields: bool = False) -> tuple[Structure, list[Any]]:
        """The structure of `tree` and its dynamic values; `fields` opens dataclasses that hold such."""
        leaves, spec = pytree.tree_flatten(tree, is_leaf=lambda x: isinstance(x, torch.Size))
        dynamic: list[Any] = []
        constants: list[Any] = []
        for leaf in leaves:
            opened = _fields(leaf) if fields else None
            if isinstance(leaf, torch.Size):  # may hold symbolic sizes, which must be operands
                inner, values = Structure.of(tuple(leaf))
                constants.append(inner.shifted(len(dynamic)))
                dynamic.extend(values)
            elif isinstance(leaf, DYNAMIC):
                constants.append(Slot(len(dynamic)))
                dynamic.append(leaf)
            elif opened is not None:
                inner, values = Structure.of(opened, fields=True)
                constants.append(Fields(type(leaf), inner.shifted(len(dynamic))) if values else leaf)
                dynamic.extend(values)
            else:
                constants.append(leaf)
        return Structure(constants, spec), dynamic

    def shifted(self, by: int) -> Structure:
        """The same with every slot `by` further on."""

        def one(constant: Any) -> Any:
            if isinstance(constant, Slot):
                return Slot(constant.index + by)
            if isinstance(constant, Fields):
                return Fields(constant.kind, constant.content.shifted(by))
            return constant.shifted(by) if isinstance(constant, Structure) else constant

        return Structure([one(c) for c in self.constants], self.spec)

    def fill(self, dynamic: Sequence[Any]) -> Any:
        """The tree again, with `dynamic[i]` in the i-th slot."""
        if self._is_tuple and len(dynamic) == len(self.constants):
            return tuple(dynamic)
        return self.filled(dynamic)

    def filled(self, dynamic: Sequence[Any]) -> Any:
        """`fill` in a form that compiles."""

        def one(constant: Any) -> Any:
            if isinstance(constant, Slot):
                return dynamic[constant.index]
            if isinstance(constant, Fields):
                return constant.kind(**constant.content.filled(dynamic))
            return constant.filled(dynamic) if isinstance(constant, Structure) else constant

        return pytree.tree_unflatten([one(c) for c in self.constants], self.spec)

    def marked(self) -> Any:
        """The tree with slots, and opened dataclasses, in the places of values."""
        return pytree.tree_unflatten(self.constants, self.spec)

    def held(self) -> Iterator[Any]:
        """Every constant, those within sizes and dataclasses as well."""
        for constant in self.constants:
            if isinstance(constant, Structure):
                yield from constant.held()
            elif isinstance(constant, Fields):
                yield from constant.content.held()
            elif not isinstance(constant, Slot):
                yield constant

    @property
    def count(self) -> int:
        """How many dynamic values it has."""
        return sum(
            1 if isinstance(c, Slot) else c.content.count if isinstance(c, Fields) else c.count
            for c in self.constants
            if isinstance(c, (Slot, Fields, Structure))
        )

    @property
    def opened(self) -> bool:
        """Whether a dataclass is in it."""
        return any(isinstance(c, Fields) for c in self.constants)


def tensor_fields(value: Any) -> dict[str, Any] | None:
    """The fields of a dataclass instance that `Structure` opens; None for everything else."""
    fields = _fields(value)
    if fields is None or not Structure.of(fields, fields=True)[1]:
        return None
    return fields


def named_leaves(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of a tree by readable names (`d['k']`, `samples[0].mask`), dataclasses of tensors opened."""
    for path, leaf in pytree.tree_flatten_with_path(value)[0]:
        place, fields = name + pytree.keystr(path), tensor_fields(leaf)
        if fields is None:
            yield place, leaf
        else:
            for field, inner in fields.items():
                yield from named_leaves(f"{place}.{field}", inner)


def map_leaves(change: Callable[[str, Any], Any], value: Any, place: str = "") -> Any:
    """The tree with `change(place, leaf)` for each leaf that `named_leaves` gives."""
    leaves, spec = pytree.tree_flatten_with_path(value)
    changed: list[Any] = []
    for path, leaf in leaves:
        where, fields = place + pytree.keystr(path), tensor_fields(leaf)
        if fields is None:
            changed.append(change(where, leaf))
        else:
            inner = {name: map_leaves(change, part, f"{where}.{name}") for name, part in fields.items()}
            changed.append(type(leaf)(**inner))
    return pytree.tree_unflatten(changed, spec)


def _fields(value: Any) -> dict[str, Any] | None:
    """The fields of a dataclass instance that its constructor takes and that are all that it holds."""
    if not dataclasses.is_dataclass(value) or isinstance(value, (type, torch.nn.Module)):
        return None
    found = dataclasses.fields(value)
    names = {f.name for f in found}
    simple = all(f.init for f in found) and not hasattr(value, "__post_init__")
    options: Any = getattr(value, "__dataclass_params__", None)  # says whether the constructor is generated
    simple = simple and options.init
    if not simple or set(getattr(value, "__dict__", names)) - names:
        return None
    return {f.name: getattr(value, f.name) for f in found}
