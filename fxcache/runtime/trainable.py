"""Whether a model has anything to be trained. Asked on every call while gradients are recorded.

Anybody may set `requires_grad`, replace a parameter or add a module between two calls, and nothing tells.
So the tensors are looked at anew each time, through a list of the modules that is made once: it holds
while no module was added, taken out or replaced, which is compared at the speed of C.
"""

from __future__ import annotations

import itertools
import operator
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

_modules, _parameters, _buffers = map(operator.attrgetter, ("_modules", "_parameters", "_buffers"))
_values = operator.methodcaller("values")
_flat = itertools.chain.from_iterable


@dataclass(frozen=True)
class _Tree:
    """All modules below some roots; children: those that they hold, one after the other, also None."""

    modules: tuple[nn.Module, ...]
    children: tuple[nn.Module | None, ...]

    @staticmethod
    def of(roots: Iterable[nn.Module]) -> _Tree:
        modules = tuple(dict.fromkeys(m for root in roots for m in root.modules()))
        return _Tree(modules, tuple(_flat(map(_values, map(_modules, modules)))))

    def holds(self) -> bool:
        """Whether the modules still hold the same ones."""
        tables = tuple(filter(None, map(_modules, self.modules)))
        return sum(map(len, tables)) == len(self.children) and all(
            map(operator.is_, _flat(map(_values, tables)), self.children)
        )


class Trainable:
    """Answers for the modules `roots` and all that they hold at the time of the question.

    others: tensors that are no parameters and no buffers of these.
    """

    def __init__(self, roots: Iterable[nn.Module], others: Iterable[Tensor] = ()) -> None:
        self._roots = tuple(roots)
        self._tree = _Tree.of(self._roots)
        self._others = tuple(weakref.ref(t) for t in others)

    def __bool__(self) -> bool:
        """Whether a parameter, a buffer or one of the other tensors requires a gradient."""
        if any(t.requires_grad for reference in self._others if (t := reference()) is not None):
            return True
        tree = self._tree
        if not tree.holds():
            tree = self._tree = _Tree.of(self._roots)
        tables = itertools.chain(map(_parameters, tree.modules), map(_buffers, tree.modules))
        tensors: Iterable[Any] = _flat(map(_values, filter(None, tables)))  # None among them, for no bias
        return any(map(getattr, tensors, itertools.repeat("requires_grad"), itertools.repeat(False)))
