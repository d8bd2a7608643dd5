"""Tracing leaves no trace: undo what running a forward on fake tensors stored on the model.

Models memoise (rotary tables, masks) on attributes, in dictionaries and plain helper objects that
they hold, and in `functools` caches. A fake tensor left in one would poison the next real call.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from .opaque import filled
from .schemas import storage_of

# Values that hold no memo of their own. Modules are walked by `model.modules()`.
ATOMS = (
    str, bytes, int, float, complex, type(None), type, torch.Tensor, torch.dtype, torch.device,
    nn.Module, FunctionType, BuiltinFunctionType, MethodType, ModuleType,
)  # fmt: skip
DEPTH = 8  # a helper object and what it holds; a hook may reach the whole program
Container = dict[Any, Any] | list[Any] | set[Any]


@contextlib.contextmanager
def pristine(model: nn.Module) -> Iterator[None]:
    """Put back every attribute, container and helper object of the model, and clear function caches."""
    saved = [(container, container.copy()) for container in _containers(model)]
    memory = [(t, t.data) for t in (*model.parameters(), *model.buffers())]
    _clear_caches(model)
    try:
        yield
    finally:
        for container, content in saved:
            _restore(container, content)
        for tensor, data in memory:
            if _placed(tensor) != _placed(
                data
            ):  # a hook or the forward moved or cast it, maybe to fake memory
                tensor.data = data
        _clear_caches(model)


def _placed(tensor: torch.Tensor) -> tuple[Any, ...]:
    return (storage_of(tensor), tensor.dtype, tensor.device, tensor.shape)


def _containers(model: nn.Module) -> list[Container]:
    """Every dict, list and set that the model's modules reach through attributes and plain objects."""
    found: dict[int, Container] = {}
    level: list[Any] = [vars(module) for module in model.modules()]
    for _ in range(DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, ATOMS) or id(value) in found:
                continue
            if isinstance(value, (dict, list, set)):
                found[id(value)] = value
            below.extend(_held(value))
        level = below
    return list(found.values())


def _held(value: Any) -> list[Any]:
    items: list[Any] = []
    if isinstance(value, dict):
        items += value.values()
    elif isinstance(value, (list, set, tuple)):
        items += value
    if hasattr(value, "__dict__") and not type(value).__module__.startswith("torch"):
        items.append(vars(value))
    return items


def _restore(container: Container, content: Any) -> None:
    if isinstance(container, dict):
        _restore_dict(container, content)
    elif isinstance(container, list):
        if len(container) != len(content) or any(a is not b for a, b in zip(container, content, strict=True)):
            container[:] = content
    elif container != content:
        container.clear()
        container.update(content)


def _restore_dict(container: dict[Any, Any], content: dict[Any, Any]) -> None:
    for key in [k for k in container if k not in content]:
        del container[key]
    for key, value in content.items():
        if key not in container or container[key] is not value:
            container[key] = value


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
    return [filled(cell) for cell in getattr(function, "__closure__", None) or ()]
