"""Tracing leaves no trace: undo what running a forward on fake tensors stored on the model.

Modules memoise (rotary tables, masks) on attributes and in `functools` caches. A fake tensor left in
one would poison the next real call.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from torch import nn


@contextlib.contextmanager
def pristine(model: nn.Module) -> Iterator[None]:
    """Put back every module attribute and clear every function cache touched within the block."""
    saved = [(module, _snapshot(module)) for module in model.modules()]
    _clear_caches(model)
    try:
        yield
    finally:
        for module, snapshot in saved:
            _restore(module, snapshot)
        _clear_caches(model)


def _snapshot(module: nn.Module) -> dict[str, Any]:
    # One level deep is where memo dictionaries and lists live.
    return {
        name: (value, value.copy() if isinstance(value, (dict, list)) else None)
        for name, value in module.__dict__.items()
        if name != "_modules"
    }


def _restore(module: nn.Module, snapshot: dict[str, Any]) -> None:
    for name in [n for n in module.__dict__ if n not in snapshot and n != "_modules"]:
        del module.__dict__[name]
    for name, (value, content) in snapshot.items():
        if isinstance(value, dict) and not _same(value, content):
            value.clear()
            value.update(content)
        elif isinstance(value, list) and not _same(value, content):
            value[:] = content
        if module.__dict__.get(name) is not value:
            module.__dict__[name] = value


def _same(value: Any, content: Any) -> bool:
    if len(value) != len(content):
        return False
    if isinstance(value, dict):
        return all(k in content and content[k] is v for k, v in value.items())
    return all(a is b for a, b in zip(value, content, strict=True))


def _clear_caches(model: nn.Module) -> None:
    places: dict[int, dict[str, Any]] = {}
    for module in model.modules():
        for cls in type(module).__mro__:
            if cls.__module__.startswith("torch.") or cls is object:
                continue
            places[id(cls)] = dict(vars(cls))
            if cls.__module__ in sys.modules:
                home = vars(sys.modules[cls.__module__])
                places[id(home)] = dict(home)
    for names in places.values():
        for value in names.values():
            for function in (value, *_enclosed(value)):
                if hasattr(function, "__wrapped__") and hasattr(function, "cache_clear"):
                    function.cache_clear()


def _enclosed(function: Any) -> list[Any]:
    """What a wrapper function closes over: a cached function may hide in there."""
    return [c.cell_contents for c in getattr(function, "__closure__", None) or () if _filled(c)]


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty cell raises
    except ValueError:
        return False
    return True
