"""Where code that is about to run may write that no walk from the model finds: globals, classes, modules."""

from __future__ import annotations

import collections
import sys
from collections.abc import Iterator
from types import FrameType, ModuleType
from typing import Any

from torch import nn

from .executed_code import Names
from .reachable_state import Place, is_library, walk

DEPTH = 8  # a helper object and what it holds
_CONTAINERS = (dict, list, set, collections.deque)


def places_written(frame: FrameType, names: Names) -> Iterator[Place]:
    """The globals that code names and what they hold; what it may write of classes and Python modules.

    frame: of the code. Classes are those that it names, and that of its first argument, as methods have it.
    """
    table = frame.f_globals
    found = {n: table[n] for n in names.globals if n in table}
    path = str(table.get("__name__", "globals"))
    yield Place(path, table, names.globals, attributes=True)
    held = [(f"{path}.{n}", v) for n, v in found.items() if not isinstance(v, (nn.Module, type, ModuleType))]
    yield from _inside(held)
    imported = (sys.modules.get(n) for n in names.imported)
    for value in (*found.values(), *imported):
        if isinstance(value, ModuleType) and not is_library(value.__name__):
            yield from _of_owner(value.__name__, vars(value), vars(value), names)
    for cls in dict.fromkeys((*_first_argument(frame), *(v for v in found.values() if isinstance(v, type)))):
        for base in cls.__mro__:
            if not is_library(base.__module__):
                yield from _of_owner(base.__name__, base, vars(base), names)


def _of_owner(path: str, owner: Any, own: Any, names: Names) -> Iterator[Place]:
    if names.stored:
        yield Place(path, owner, names.stored, attributes=True)
    held = ((f"{path}.{n}", own[n]) for n in names.attributes if n in own)
    yield from _inside([(p, v) for p, v in held if isinstance(v, _CONTAINERS)])


def _inside(values: list[tuple[str, Any]]) -> Iterator[Place]:
    return walk(values, lambda module: False, depth=DEPTH)


def _first_argument(frame: FrameType) -> tuple[type, ...]:
    code = frame.f_code
    if not code.co_argcount:
        return ()
    first = frame.f_locals.get(code.co_varnames[0])
    return (first if isinstance(first, type) else type(first),)
