"""Numbers that change between calls become inputs of the graph, so that they need no graph of their own.

A number among the arguments is a constant of a captured graph. Where calls differ in one, it is handed to the
graph as a tensor instead, and the forward is traced with a symbol in its place: arithmetic uses the number of
each call, and what the forward decides by it becomes a condition on the calls that the graph serves.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..environment.structure import map_leaves

EXACT = 2**53  # integers up to here are compared with floats as symbols are
Path = tuple[str, str]  # an argument, and where in it the number is


def path_of(name: str, bound: Mapping[str, Any]) -> Path:
    """Where the number with this name, as `differences` gives it, is among the arguments."""
    argument = name if name in bound else max((n for n in bound if name.startswith(n)), key=len)
    return argument, name[len(argument) :]


class Promotion:
    """Which numbers among the arguments are inputs of the graph.

    paths: where they are. fixed: where numbers are that cannot be inputs.
    """

    def __init__(self) -> None:
        self.paths: dict[str, frozenset[str]] = {}
        self.fixed: frozenset[Path] = frozenset()

    def add(self, paths: Sequence[Path]) -> None:
        """From now on, these are inputs."""
        for name, where in paths:
            known = self.paths.get(name, frozenset())
            if where not in known:  # a timestep is said again on every call
                self.paths[name] = known | {where}

    def fix(self, paths: Sequence[Path]) -> None:
        """These cannot be inputs."""
        self.fixed |= set(paths)
        for name, where in paths:
            left = self.paths.pop(name, frozenset()) - {where}
            if left:
                self.paths[name] = left

    def apply(self, bound: Any) -> tuple[Any, tuple[str, ...]]:
        """The arguments, with tensors where these numbers were, and the names of those."""
        if self.paths.keys().isdisjoint(bound):
            return bound, ()
        bound = copy.copy(bound)
        names: list[str] = []
        for name, wanted in self.paths.items():
            if name in bound:
                bound[name] = _promoted(name, bound[name], wanted, names)
        return bound, tuple(names)


def as_numbers(bound: Any) -> Any:
    """The arguments with numbers again where tensors stand for such."""

    def number(place: str, leaf: Any) -> Any:
        return leaf.item() if getattr(leaf, "stands_for_number", False) else leaf

    numbered = copy.copy(bound)
    for name, value in bound.items():
        numbered[name] = map_leaves(number, value)
    return numbered


def _promoted(name: str, value: Any, wanted: frozenset[str], names: list[str]) -> Any:
    def promoted(where: str, leaf: Any) -> Any:
        if where in wanted and (type(leaf) is float or (type(leaf) is int and abs(leaf) <= EXACT)):
            leaf = _as_tensor(leaf)
        if where in wanted and getattr(leaf, "stands_for_number", False):
            names.append(name + where)
        return leaf

    return map_leaves(promoted, value)


def _as_tensor(number: float) -> torch.Tensor:
    """A number as an input of a graph: it holds what the number does, and `item` gives it back."""
    dtype = torch.int64 if isinstance(number, int) else torch.float64
    tensor = torch.tensor(number, dtype=dtype, device="cpu")
    tensor.stands_for_number = True  # type: ignore[attr-defined]
    return tensor
