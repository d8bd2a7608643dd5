"""The Python state that a forward can reach: places that hold values, found by walking from some roots.

A *place* is a dictionary, list or set, the attributes of an object, module or class, or a closure's cell.
Tensors, numbers and functions of libraries are values, not places.
"""

from __future__ import annotations

import collections
import functools
import operator
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from inspect import getattr_static
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
)
from typing import Any

import torch
from torch import nn

from .opaque_objects import PLAIN

MISSING: Any = type("Missing", (), {"__repr__": lambda self: "nothing"})()
LIMIT = 50_000  # values; more than this no forward reads, and a walk would take seconds
# What `nn.Module` keeps for itself. `training` is the model's, hooks and children are walked one by one.
TORCHS_OWN = frozenset({*nn.Module().__dict__, "_compiled_call_impl"}) - {"training"}
HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
CHILDREN = ("_parameters", "_buffers", "_modules")
_ATOMS = (*PLAIN, torch.Tensor, BuiltinFunctionType, weakref.ref, torch.Generator)
_SEQUENCES = (list, tuple, set, frozenset, collections.deque)
_LIBRARIES = frozenset({"torch", "numpy", "builtins", "fxcache"})
_STATELESS = _LIBRARIES | {
    "logging",
    "threading",
    "weakref",
    "contextlib",
    "contextvars",
    "re",
    "inspect",
    "typing",
}


@dataclass(frozen=True, eq=False)
class Place:
    """Something that holds values by key.

    path: how a person would write it. keys: those that count; None for all but those in `omitted`.
    attributes: whether the keys are names of attributes rather than items.
    """

    path: str
    holder: Any
    keys: frozenset[str] | None = None
    attributes: bool = False
    omitted: frozenset[str] = frozenset()

    def content(self) -> dict[Any, Any]:
        """The values by key."""
        holder = self.holder
        if isinstance(holder, dict):
            if self.keys is None:
                return {k: v for k, v in holder.items() if k not in self.omitted}
            return {k: holder[k] for k in self.keys if k in holder}
        if isinstance(holder, type):
            return {k: v for k, v in vars(holder).items() if self.keys is None or k in self.keys}
        if isinstance(holder, (list, collections.deque)):
            return dict(enumerate(holder))
        if isinstance(holder, set):
            return dict.fromkeys(holder, True)
        if isinstance(holder, CellType):
            return {} if _filled(holder) is MISSING else {"content": holder.cell_contents}
        return {k: v for k in self.keys or () if (v := _slot(holder, k)) is not MISSING}

    def set(self, key: Any, value: Any) -> None:
        """Put a value in its place; `MISSING` takes it out."""
        holder = self.holder
        if isinstance(holder, set):
            (holder.discard if value is MISSING else holder.add)(key)
        elif isinstance(holder, CellType):
            holder.cell_contents = value
        elif isinstance(holder, (dict, list, collections.deque)):
            if value is MISSING:
                del holder[key]
            elif isinstance(holder, (list, collections.deque)) and key == len(holder):
                holder.append(value)
            else:
                holder[key] = value
        elif value is MISSING:
            delattr(holder, key)
        elif isinstance(holder, type):
            setattr(holder, key, value)
        else:
            object.__setattr__(holder, key, value)

    def named(self, key: Any) -> str:
        """How a person would write a value of this place."""
        if isinstance(self.holder, CellType):
            return self.path
        return f"{self.path}.{key}" if self.attributes else f"{self.path}[{key!r}]"


def _filled(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def _slot(holder: Any, name: str) -> Any:
    try:
        return object.__getattribute__(holder, name)
    except AttributeError:
        return MISSING


def slots_of(value: Any) -> frozenset[str]:
    """Names of the slots of an object's class and its bases.

    One that a class beneath has a property of the same name for is hidden, and none (Python 3.13's paths).
    """
    kind, names = type(value), set()
    for cls in kind.__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                private = name.startswith("__") and not name.endswith("__")
                names.add(f"_{cls.__name__.lstrip('_')}{name}" if private else name)
    return frozenset(n for n in names if isinstance(getattr_static(kind, n, None), MemberDescriptorType))


def walk(
    roots: Iterable[tuple[str, Any]],
    opens: Callable[[nn.Module], bool],
    wanted: frozenset[str] | None = None,
    every: bool = False,
    depth: int = 64,
) -> Iterator[Place]:
    """Every place that is reached from `roots`, once.

    Args:
        roots: (how a person would write it, value).
        opens: whether the attributes and children of a module count; those of others are its own affair.
        wanted: names of attributes that count; None for all.
        every: attributes of any name count on modules.
        depth: how many steps from a root.
    """
    seen: dict[int, Any] = {}
    level = list(roots)
    for _ in range(depth):
        below: list[tuple[str, Any]] = []
        for path, value in level:
            if isinstance(value, _ATOMS) or id(value) in seen:
                continue
            seen[id(value)] = value  # held, so that no other object gets its id meanwhile
            for place in _places(path, value, opens, wanted, every):
                yield place
                below += [(place.named(k), v) for k, v in place.content().items()]
            below += _within(path, value)
        if not below or len(seen) > LIMIT:
            return
        level = below


def _places(
    path: str,
    value: Any,
    opens: Callable[[nn.Module], bool],
    wanted: frozenset[str] | None,
    every: bool,
) -> Iterator[Place]:
    if isinstance(value, nn.Module):
        if opens(value):
            own = value.__dict__
            names = None
            if wanted is not None:
                names = frozenset(wanted | own.keys() if every else wanted) - TORCHS_OWN
            yield Place(path, own, names, attributes=True, omitted=TORCHS_OWN)
            for table in (*CHILDREN, *HOOKS):
                if table in own:  # modules of TorchScript keep them elsewhere
                    yield Place(f"{path}.{table}", own[table])
            yield from _classes(value, wanted)
    elif isinstance(value, (dict, list, set, collections.deque)):
        yield Place(path, value)
        if hasattr(value, "__dict__") and vars(value):
            yield Place(path, vars(value), None if wanted is None else wanted, attributes=True)
    elif isinstance(value, FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
            yield Place(f"{name} of {path}", cell)
        if value.__dict__:
            yield Place(path, value.__dict__, attributes=True)
    elif isinstance(value, ModuleType):
        if wanted is not None and not is_library(value.__name__):
            yield Place(value.__name__, vars(value), wanted & vars(value).keys(), attributes=True)
    elif isinstance(value, type):
        if wanted is not None and not is_library(value.__module__):
            yield Place(value.__name__, value, wanted, attributes=True)
    elif not isinstance(value, (tuple, frozenset, MethodType, functools.partial, MappingProxyType)):
        yield from _of_object(path, value, wanted)


def _of_object(path: str, value: Any, wanted: frozenset[str] | None) -> Iterator[Place]:
    if type(value).__module__.partition(".")[0] in _STATELESS:
        return
    if hasattr(value, "__dict__"):
        yield Place(path, vars(value), wanted, attributes=True)
    slots = slots_of(value)
    if slots:
        yield Place(path, value, slots if wanted is None else slots & wanted, attributes=True)
    yield from _classes(value, wanted)


def _classes(value: Any, wanted: frozenset[str] | None) -> Iterator[Place]:
    """The classes of `value`: what is looked up in one may also be put into one that is asked before it."""
    if wanted is None:
        return
    classes = [cls for cls in type(value).__mro__ if not is_library(cls.__module__)]
    names = wanted & {n for cls in classes for n in vars(cls)}
    if isinstance(value, nn.Module):
        names |= {"forward", "__call__"}
    for cls in classes:
        yield Place(cls.__name__, cls, names, attributes=True)


def _within(path: str, value: Any) -> list[tuple[str, Any]]:
    """What a value holds that cannot be put in another's place."""
    if isinstance(value, (tuple, frozenset)):
        return [(f"{path}[{i}]", v) for i, v in enumerate(value)]
    if isinstance(value, MappingProxyType):
        return [(f"{path}[{k!r}]", v) for k, v in value.items()]
    if isinstance(value, MethodType):
        return [(path, value.__self__), (path, value.__func__)]
    if isinstance(value, functools.partial):
        return [(path, value.func), (path, value.args), (path, value.keywords)]
    if isinstance(value, FunctionType):
        return [(path, value.__defaults__), (path, value.__kwdefaults__)]
    if isinstance(value, (property, classmethod, staticmethod)):
        return [(path, getattr(value, n, None)) for n in ("fget", "__func__")]
    if hasattr(value, "__wrapped__") and not isinstance(value, (nn.Module, type, Mapping)):
        return [(path, value.__wrapped__)]
    return []


@functools.lru_cache(maxsize=4096)
def is_library(module: str | None) -> bool:
    """Whether objects of a Python module hold no state that a forward's results depend on."""
    top = (module or "").partition(".")[0]
    return top in _LIBRARIES or (top in sys.stdlib_module_names and top != "__main__")


def unchanged(now: Mapping[Any, Any], before: Mapping[Any, Any]) -> bool:
    """Whether a place's content is the same objects under the same keys."""
    same_values = len(now) == len(before) and all(map(operator.is_, now.values(), before.values()))
    return same_values and now.keys() == before.keys()


def same(before: Any, now: Any) -> bool:
    """Whether a value is what it was: the same object, or an equal plain value."""
    if before is now:
        return True
    if isinstance(before, PLAIN):
        return type(before) is type(now) and (bool(before == now) or (before != before and now != now))
    return False
