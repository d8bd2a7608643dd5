"""The module that a captured graph calls where a leaf cannot be called as it is.

It enters what was in force around the leaf, gives it copies of what it writes to, and takes apart
dataclasses: in the graph every value is a tensor of its own, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..environment.ambient_settings import Change
from ..environment.opaque_objects import PLAIN
from ..environment.refused_trace import RefusedTrace
from ..environment.structure import Fields, Slot, Structure
from .operand_writes import copied

Path = tuple[Any, ...]


@dataclass(frozen=True)
class Flat:
    """How a leaf is called with flat operands, and what is taken out of its result.

    arguments: the structure of its `(args, kwargs)`. written: the operands that it writes to.
    places: where the dynamic values of its result are, in order.
    """

    arguments: Structure
    written: tuple[int, ...]
    places: tuple[Path, ...]

    def is_like(self, other: Flat) -> bool:
        """Whether a leaf called so is called as `other` says; objects must be the same ones."""
        if (self.written, self.places, self.arguments.spec) != (
            other.written,
            other.places,
            other.arguments.spec,
        ):
            return False
        pairs = zip(self.arguments.constants, other.arguments.constants, strict=True)
        return all(a is b or (isinstance(a, (Slot, *PLAIN)) and _same(a, b)) for a, b in pairs)


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)


class LeafAdapter(nn.Module):
    """Calls `leaf` with `changed` in force.

    flat: takes the leaf's operands one by one and returns a flat tuple: the dynamic values of its result,
    then the new values of the operands that it wrote to. None: takes and returns what the leaf does.
    """

    def __init__(self, leaf: nn.Module, changed: tuple[Change, ...], flat: Flat | None) -> None:
        super().__init__()
        self.leaf = leaf
        self._changed = changed
        self._flat = flat

    def calls_like(self, other: nn.Module) -> bool:
        """Whether `other` calls the same leaf in the same way."""
        if not isinstance(other, LeafAdapter) or other.leaf is not self.leaf:
            return False
        if other._changed != self._changed or other._flat is None or self._flat is None:
            return other._changed == self._changed and other._flat is self._flat
        return other._flat.is_like(self._flat)

    def argument(self, position: int) -> int | str:
        """The leaf's own argument, its position or its name, that the one at `position` is, or is within."""
        if self._flat is None:
            return position
        place = places_of(self._flat.arguments)[position]
        key: int | str = place[1][1]  # behind the choice of (args, kwargs)
        return key

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the leaf's."""
        if self._flat is None:
            return self._within(0, args, kwargs)
        operands = list(args)
        copies = []
        for place in self._flat.written:
            copy = copied(operands[place])
            operands = [copy if o is args[place] else o for o in operands]
            copies.append(copy)
        leaf_args, leaf_kwargs = self._flat.arguments.filled(operands)
        result = self._within(0, leaf_args, leaf_kwargs)
        return (*(_at(result, place) for place in self._flat.places), *copies)

    def _within(self, index: int, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if index == len(self._changed):
            return self.leaf(*args, **kwargs)
        with self._changed[index].entered():
            return self._within(index + 1, args, kwargs)


def called_leaf(module: nn.Module) -> nn.Module:
    """The leaf that a module of a captured graph calls: itself, or what it adapts."""
    return module.leaf if isinstance(module, LeafAdapter) else module


def _at(value: Any, path: Path) -> Any:
    for kind, key in path:
        value = getattr(value, key) if kind == "attribute" else value[key]
    return value


def places_of(structure: Structure) -> tuple[Path, ...]:
    """Where each dynamic value is in a tree: steps of ("attribute" | "item", key), in order.

    Raises `RefusedTrace` for a container that cannot be looked into.
    """
    found: dict[int, Path] = {}

    def note(value: Any, path: Path) -> None:
        if isinstance(value, Slot):
            found[value.index] = path
        else:
            for step, inner in _children(value):
                note(inner, (*path, step))

    note(structure.marked(), ())
    if len(found) != structure.count:
        kind = type(structure.marked()).__name__
        raise RefusedTrace(f"a module returns a {kind}, whose tensors cannot be taken out one by one")
    return tuple(found[i] for i in range(len(found)))


def _children(value: Any) -> list[tuple[tuple[str, Any], Any]]:
    if isinstance(value, Structure):  # a torch.Size
        return _children(value.marked())
    if isinstance(value, Fields):
        return [(("attribute", name), v) for name, v in value.content.marked().items()]
    if isinstance(value, Mapping):
        return [(("item", key), v) for key, v in value.items()]
    if isinstance(value, (tuple, list)):
        names = getattr(value, "_fields", None)
        return [
            (("attribute", names[i]) if names is not None else ("item", i), v) for i, v in enumerate(value)
        ]
    return []
