"""Which methods of a model run its forward? A stand-in must run those itself, or they go uncached.

Decided from the code: a method that mentions `self.forward`, calls `self(...)`, or calls a method that
does. A model's own class may also hand `self` to others (a sampler, a solver), which then call it.
"""

from __future__ import annotations

import dis
import functools
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, MethodType
from typing import Any

from torch import nn

from ..environment.values import filled

FORWARD = frozenset({"forward", "__call__"})
CALLEE = "PUSH_NULL"  # the instruction beside the load of what is called, where that is no attribute
# Instructions after which a loaded `self` was not used as a whole: writes to an attribute, `super()`.
PART = frozenset({"STORE_ATTR", "DELETE_ATTR", "LOAD_SUPER_ATTR"})
HOLDERS = (FunctionType, MethodType, functools.partial)


def runs_forward(function: Callable[..., Any], cls: type, forward: frozenset[str] = FORWARD) -> bool:
    """Whether `function`, a method found on instances of `cls`, runs the forward of its `self`, or whatever
    else has one of the names in `forward`."""
    pending, seen = [function], set()
    while pending:
        for inner in _functions(pending.pop()):
            if inner in seen:
                continue
            seen.add(inner)
            names, whole = _uses_of_self(inner.__code__)
            if names & forward or (whole and _own(inner, cls)):
                return True
            pending += _methods(names, cls)
    return False


def reaches(function: Any, module: nn.Module) -> bool:
    """Whether `function` holds a method of `module` (its forward, to go around it)."""
    pending, seen = [function], set()
    while pending:
        found = pending.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, MethodType):
            if found.__self__ is module and (found is not function or _defined_by(found, type(module))):
                return True
            pending.append(found.__func__)
        elif isinstance(found, functools.partial):
            pending += [found.func, *found.args, *found.keywords.values()]
        elif isinstance(found, FunctionType):
            held = [found.__globals__.get(name) for name in found.__code__.co_names]
            held += [*map(filled, found.__closure__ or ()), *(found.__defaults__ or ())]
            pending += [h for h in held if isinstance(h, HOLDERS)]
    return False


def _defined_by(method: MethodType, cls: type) -> bool:
    return any(method.__func__ in vars(base).values() for base in cls.__mro__)


def _functions(function: Any) -> Iterator[FunctionType]:
    """`function` itself and what it wraps: decorators may hold a function in a cell."""
    pending, seen = [function], set()
    while pending:
        found = pending.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        pending += [f for f in (getattr(found, "__wrapped__", None), getattr(found, "__func__", None)) if f]
        if isinstance(found, FunctionType):
            yield found
            cells = (filled(cell) for cell in found.__closure__ or ())
            pending += [c for c in cells if isinstance(c, FunctionType)]


def _methods(names: set[str], cls: type) -> list[Any]:
    # What `nn.Module` has serves any model, also where the compiler put a function of its own there.
    bases = [base for base in cls.__mro__ if base is not nn.Module]
    found = (vars(base)[name] for name in names for base in bases if name in vars(base))
    return [f for f in found if isinstance(f, FunctionType) and f.__module__ != nn.Module.__module__]


def _own(function: FunctionType, cls: type) -> bool:
    """Whether the method belongs to the model's own code, rather than to a base that serves any model."""
    for base in cls.__mro__:
        if function in vars(base).values():
            return True
        if "forward" in vars(base):
            break
    inherited = any(function in vars(base).values() for base in cls.__mro__)
    return not inherited  # a function set on the instance, or within a decorator


def _uses_of_self(code: CodeType) -> tuple[set[str], bool]:
    """Names of attributes that a method reads of its first argument, and whether it uses that as a whole."""
    if not code.co_argcount:  # `def method(*args)`, a decorator's wrapper
        return set(), False
    return _uses(code, code.co_varnames[0])


def _uses(code: CodeType, name: str) -> tuple[set[str], bool]:
    names: set[str] = set(code.co_names) if "super" in code.co_names else set()
    whole = False
    instructions = [None, *dis.get_instructions(code), None]
    for before, instruction, after in zip(instructions, instructions[1:], instructions[2:], strict=False):
        assert instruction is not None
        # Several loads may be one instruction, whose argument is then a tuple of names.
        loaded = instruction.argval if isinstance(instruction.argval, tuple) else (instruction.argval,)
        if name not in loaded or not instruction.opname.startswith(("LOAD_FAST", "LOAD_DEREF")):
            continue
        following = after.opname if after is not None else ""
        if loaded[-1] == name and following in ("LOAD_ATTR", "LOAD_METHOD"):
            names.add(str(after.argval))  # type: ignore[union-attr]
        elif following == CALLEE or (before is not None and before.opname == CALLEE):
            names.add("__call__")
        elif loaded[-1] != name or following not in PART:
            whole = True
    for constant in code.co_consts:
        if isinstance(constant, CodeType) and name in constant.co_freevars:
            inner, used = _uses(constant, name)
            names, whole = names | inner, whole or used
    return names, whole
