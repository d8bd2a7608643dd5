"""What a Python value holds: a description of it without its parts, and the parts.

One place knows how each kind of object is opened; `fingerprint` turns the answer into keys, and
`opaque.tensors_within` looks for tensors with it.
"""

from __future__ import annotations

import array
import collections
import copyreg
import enum
import functools
import logging
import pathlib
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import torch
from torch import nn

from ..torch_private import OperatorBase, OpOverloadPacket, before_compiling
from .ignored import Ignored

# Kinds whose own equality is right and complete.
CONSTANTS = frozenset((
    type(None), bool, int, str, bytes, type(...), type(NotImplemented), CodeType, ModuleType,
    torch.dtype, torch.device, torch.layout, torch.memory_format,
))  # fmt: skip
# Kinds that count as what they are, not by what they hold: it is used when the graph runs, or nothing.
IDENTITIES = (
    ModuleType, OperatorBase, OpOverloadPacket, torch.Generator, torch.Stream, torch.Event, torch.SymInt,
    torch.SymFloat, torch.SymBool, logging.Logger, type(threading.Lock()), type(threading.RLock()),
    GetSetDescriptorType, MemberDescriptorType, MethodDescriptorType, WrapperDescriptorType,
)  # fmt: skip
# Attributes of modules that torch itself keeps; of these, only some say what a call does.
_TORCHS_OWN = frozenset(nn.Module().__dict__)
_OF_MODULES = ("_modules", "_forward_hooks", "_forward_pre_hooks")
_LIBRARIES = frozenset({"torch", "numpy", "fxcache", *sys.stdlib_module_names} - {"__main__"})


class UntellableError(Exception):
    """A value whose state cannot be seen; `kind` says of what kind it is."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(kind)


class Held:
    """A key part that is equal where it is about the very same object, which it keeps alive."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is Held and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)

    def __repr__(self) -> str:
        return f"<{type(self.value).__name__}>"


@dataclass(frozen=True)
class Outside:
    """A value that code names but that no one handed over: a global. Containers count whole, objects as such.

    names: what the code that names it may read of it.
    """

    value: Any
    names: tuple[str, ...] = ()


Parts = tuple[Any, "list[Any]"]
Opener = Callable[[Any], Parts]


def opened(value: Any) -> Parts:
    """(description, parts) of `value`: it is what these say. Raises `UntellableError`."""
    return _opener(type(value))(value)  # type: ignore[arg-type]  # a type is hashable


def exact(value: float) -> Any:
    """A stand-in for a float that is equal where all bits are: NaNs are, 0.0 and -0.0 are not."""
    return value if value == value and value != 0.0 else struct.pack("d", value)


@functools.lru_cache(maxsize=4096)
def _opener(kind: type) -> Opener:
    if kind in _EXACT:
        return _EXACT[kind]
    if issubclass(kind, type):
        return _class
    return next((opener for base, opener in _BY_BASE if issubclass(kind, base)), _plain_object)


def _constant(value: Any) -> Parts:
    return value, []


def _identity(value: Any) -> Parts:
    return Held(value), []


def _float(value: float) -> Parts:
    return exact(float(value)), []


def _complex(value: complex) -> Parts:
    return (exact(value.real), exact(value.imag)), []


def _sequence(value: Any) -> Parts:
    return None, list(value)


def _mapping(value: Any) -> Parts:
    return None, [part for item in value.items() for part in item]


def _set(value: Any) -> Parts:
    if CONSTANTS.issuperset(map(type, value)):  # 1 and True are equal, but not the same
        return frozenset((type(v), v) for v in value), []
    return None, list(value)


def _range(value: range) -> Parts:
    return (value.start, value.stop, value.step), []


def _slice(value: slice) -> Parts:
    return None, [value.start, value.stop, value.step]


def _memory(value: Any) -> Parts:
    view = memoryview(value)
    return (view.format, view.shape, view.tobytes()), []


def _array(value: np.ndarray[Any, Any]) -> Parts:
    described = (value.dtype, value.shape, value.strides, value.flags.writeable)
    if value.dtype.hasobject:
        return described, list(value.flat)
    return (*described, value.tobytes()), []


def _scalar(value: np.generic) -> Parts:
    return (value.dtype, value.tobytes()), [value.item()] if value.dtype.hasobject else []


def _enum(value: enum.Enum) -> Parts:
    return Held(type(value)), [value._value_]


def _class(value: type) -> Parts:
    """A class counts with its functions, and with its data, which may be written to like an object's."""
    if is_library(value.__module__) or issubclass(value, enum.Enum):
        return Held(value), []
    functions: list[Any] = [Held(value)]
    parts: list[Any] = [base for base in value.__bases__ if base is not object]
    for name, held in vars(value).items():
        if isinstance(held, FunctionType):
            functions.append((name, held))
        elif not name.startswith("__") and name != "_abc_impl":
            functions.append(name)
            parts.append(Outside(held))
    return tuple(functions), parts


def _function(value: FunctionType) -> Parts:
    code = value.__code__
    original = before_compiling(value)
    if original is not None:  # the wrapper is `torch.compile`'s
        return Held(value), [original]
    parts = [value.__defaults__, value.__kwdefaults__, *map(filled, value.__closure__ or ())]
    if value.__dict__:
        parts.append(dict(value.__dict__))
    if is_library(value.__module__):
        return code, parts
    names = _names(code)
    table = value.__globals__
    found = tuple(n for n in names if n in table)
    parts += [Outside(table[n], names) for n in found]
    return (code, found), parts


@functools.lru_cache(maxsize=4096)
def _names(code: CodeType) -> tuple[str, ...]:
    """The names of globals and attributes in a code object and those within it."""
    within = (c for c in code.co_consts if isinstance(c, CodeType))
    return tuple(dict.fromkeys((*code.co_names, *(n for c in within for n in _names(c)))))


def filled(cell: Any) -> Any:
    """What a closure's cell holds; None where it is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _method(value: MethodType) -> Parts:
    return None, [value.__func__, value.__self__]


def _builtin(value: Any) -> Parts:
    owner = value.__self__
    bound = owner is not None and not isinstance(owner, (ModuleType, type))
    return (value.__name__, value.__module__), [owner if bound else Outside(owner)]


def _bound_slot(value: Any) -> Parts:
    return value.__name__, [value.__self__]


def _reference(value: Any) -> Parts:
    return None, [value()]


def _path(value: pathlib.PurePath) -> Parts:
    return value.parts, []  # what else it holds are memos


def _partial(value: functools.partial[Any]) -> Parts:
    return None, [value.func, value.args, value.keywords, *_attributes(value)]


def _memoised(value: Any) -> Parts:
    return None, [value.__wrapped__]  # by its contract a cache changes no result


def _wrapping(value: Any) -> Parts:
    return None, [value.__func__]


def _property(value: property) -> Parts:
    return None, [value.fget, value.fset, value.fdel]


def _module(value: nn.Module) -> Parts:
    own = vars(value)
    kept = {n: own[n] for n in _OF_MODULES if own.get(n)}
    kept |= {n: v for n, v in own.items() if n not in _TORCHS_OWN}
    if "_orig_mod" in own["_modules"]:  # the wrapper is `torch.compile`'s
        kept = {"_modules": own["_modules"]}
    tensors = (*own["_parameters"].items(), *own["_buffers"].items())
    described = tuple((name, live(t)) for name, t in tensors if t is not None)
    return (Held(value), value.training, described), [type(value), kept]


def live(tensor: torch.Tensor) -> tuple[Any, ...]:
    """A tensor that a graph refers to: that it is written to changes nothing."""
    return Held(tensor), tensor.dtype, tensor.device, tensor.shape


def _parameter(value: nn.Parameter) -> Parts:
    return live(value), []


def _outside(value: Outside) -> Parts:
    held, names = value.value, value.names
    if type(held) in _EXACT and not isinstance(held, (MethodType, BuiltinFunctionType, *_CONTAINERS)):
        return None, [held]
    if isinstance(held, _CONTAINERS):
        items = held.values() if isinstance(held, dict) else held
        keys = [*held] if isinstance(held, dict) else []
        return (type(held), len(held)), [Outside(v) for v in (*keys, *items)]
    own = getattr(held, "__dict__", None)
    module = held.__name__ if isinstance(held, ModuleType) else type(held).__module__
    if isinstance(held, type):
        module = held.__module__
    if isinstance(own, (dict, MappingProxyType)) and not is_library(module):
        read = [n for n in names if n in own]
        return (Held(held), tuple(read)), [Outside(own[n]) for n in read]
    return Held(held), []


def _plain_object(value: Any) -> Parts:
    kind = type(value)
    if hasattr(kind, "__next__") or hasattr(kind, "__await__"):
        raise UntellableError(f"{kind.__name__}, which a call would use up")
    if _hides(kind):  # type: ignore[arg-type]
        return _reduced(value)
    return None, [kind, *_attributes(value)]


def _subclass(opener: Opener) -> Opener:
    """Opens an object of a subclass: as one of the base class, and its attributes."""

    def both(value: Any) -> Parts:
        described, parts = opener(value)
        return (described, len(parts)), [*parts, type(value), *_attributes(value)]

    return both


def _attributes(value: Any) -> Iterator[Any]:
    own = getattr(value, "__dict__", None)
    if isinstance(own, dict):
        yield dict(own)
    for name in _slots(type(value)):  # type: ignore[arg-type]
        try:
            yield (name, object.__getattribute__(value, name))
        except AttributeError:
            continue


@functools.lru_cache(maxsize=4096)
def _slots(kind: type) -> tuple[str, ...]:
    names: list[str] = []
    for cls in kind.__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            private = name.startswith("__") and not name.endswith("__")
            names.append(f"_{cls.__name__.lstrip('_')}{name}" if private else name)
    return tuple(n for n in names if n not in ("__dict__", "__weakref__"))


@functools.lru_cache(maxsize=4096)
def _hides(kind: type) -> bool:
    """Whether objects of a class have memory beside attributes and slots: its state is C's."""
    pointer = struct.calcsize("P")
    seen = object.__basicsize__ + len(_slots(kind)) * pointer
    seen += pointer * (kind.__dictoffset__ > 0) + pointer * (kind.__weakrefoffset__ > 0)
    return kind.__basicsize__ > seen or kind.__itemsize__ > 0


def _reduced(value: Any) -> Parts:
    """An object of a class written in C, by what it tells `pickle`."""
    kind = type(value)
    try:
        reduce = copyreg.dispatch_table.get(kind)
        told = value.__reduce_ex__(2) if reduce is None else reduce(value)
    except Exception as error:  # what the class raises to say that it cannot
        raise UntellableError(kind.__name__) from error
    if isinstance(told, str):
        return Held(value), []
    if any(part is not None and hasattr(part, "__next__") for part in told):
        told = (*told[:3], *(list(p) if p is not None else None for p in told[3:]))
    return None, [kind, *told, *_attributes(value)]


def is_library(module: str | None) -> bool:
    """Whether a module's globals and classes hold no state that a result depends on."""
    return (module or "").partition(".")[0] in _LIBRARIES


_CONTAINERS = (dict, list, tuple, set, frozenset, collections.deque, MappingProxyType)
_EXACT: dict[type, Opener] = {
    Ignored: lambda value: (None, []),
    **dict.fromkeys(CONSTANTS, _constant),
    **dict.fromkeys((list, tuple, torch.Size), _sequence),
    **dict.fromkeys((dict, MappingProxyType), _mapping),
    **dict.fromkeys((set, frozenset), _set),
    **dict.fromkeys((bytearray, memoryview, array.array), _memory),
    float: _float,
    complex: _complex,
    range: _range,
    slice: _slice,
    type: _class,
    FunctionType: _function,
    MethodType: _method,
    MethodWrapperType: _bound_slot,
    BuiltinFunctionType: _builtin,
    property: _property,
    Outside: _outside,
    nn.Parameter: _parameter,
    functools._lru_cache_wrapper: _memoised,
}
_BY_BASE: tuple[tuple[type, Opener], ...] = (
    *((kind, _identity) for kind in IDENTITIES),
    (nn.Module, _module),
    (enum.Enum, _enum),
    (np.ndarray, _subclass(_array)),
    (np.generic, _scalar),
    (functools.partial, _partial),
    (staticmethod, _wrapping),
    (classmethod, _wrapping),
    (collections.defaultdict, _subclass(lambda v: (None, [v.default_factory, dict(v)]))),
    (collections.deque, _subclass(lambda v: (v.maxlen, list(v)))),
    (collections.OrderedDict, _subclass(lambda v: _mapping(collections.OrderedDict.copy(v)))),
    (dict, _subclass(lambda v: (None, [part for item in dict.items(v) for part in item]))),
    (list, _subclass(lambda v: (None, list(list.__iter__(v))))),
    (tuple, _subclass(lambda v: (None, list(tuple.__iter__(v))))),
    (set, _subclass(lambda v: _set(set(set.__iter__(v))))),
    (frozenset, _subclass(lambda v: _set(frozenset(frozenset.__iter__(v))))),
    (str, _subclass(lambda v: (str.__str__(v), []))),
    (bytes, _subclass(lambda v: (bytes.__bytes__(v), []))),
    (int, _subclass(lambda v: (int.__int__(v), []))),
    (float, _subclass(lambda v: (exact(float.__float__(v)), []))),
    (bytearray, _subclass(_memory)),
    (weakref.ReferenceType, _reference),
    (pathlib.PurePath, _path),
    (np.dtype, _constant),
)
