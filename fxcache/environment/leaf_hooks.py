"""Whether the hooks on the leaves, and on all within them, are those that they were captured with.

A hook acts within the leaf, so what it returns counts by itself. But that a leaf returns its very
input, or writes to it, is in the graph; a hook that comes later may do otherwise.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from .reachable_state import MISSING

HOOKS = ("_forward_pre_hooks", "_forward_hooks")


class LeafHooks:
    """The hooks of some leaves, and the forwards that somebody set on them, as they are when this is made."""

    def __init__(self, leaves: Mapping[str, nn.Module]) -> None:
        modules = [(p, m) for name, leaf in leaves.items() for p, m in leaf.named_modules(prefix=name)]
        self._paths = tuple(path for path, _ in modules for _ in HOOKS)
        self._tables = tuple(getattr(module, name) for _, module in modules for name in HOOKS)
        self._hooks = tuple(tuple(t.values()) for t in self._tables)
        self._any = any(self._tables)
        self._names = tuple(leaves)
        self._own = tuple(vars(leaf) for leaf in leaves.values())
        self._forwards = tuple(self._set_forwards())

    def holds(self) -> bool:
        """Whether nothing changed. The same function under another handle is no change."""
        if self._any or any(self._tables):
            return next(self.changes(), None) is None
        return all(map(operator.is_, self._set_forwards(), self._forwards))

    def _set_forwards(self) -> Iterator[Any]:
        return map(dict.get, self._own, itertools.repeat("forward"), itertools.repeat(MISSING))

    def changes(self) -> Iterator[str]:
        """What changed, a line each."""
        for path, table, hooks in zip(self._paths, self._tables, self._hooks, strict=True):
            if not _same(tuple(table.values()), hooks):
                yield f"the hooks of {path} changed"
        for name, now, before in zip(self._names, self._set_forwards(), self._forwards, strict=True):
            if now is not before:
                yield f"the forward of {name} was replaced"


def _same(now: tuple[Any, ...], before: tuple[Any, ...]) -> bool:
    return len(now) == len(before) and all(a is b or a == b for a, b in zip(now, before, strict=True))
