"""Numbers as a forward sees them while it is traced: symbols that pass for Python's own numbers.

torch's symbolic numbers are no `float` or `int` by `isinstance`, and print as expressions: a forward would
decide otherwise than it does on numbers, silently. These say what a number says; where only the value will
do (to print it, to look it up), they read it, which the reader of values notices.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ClassVar

import torch

BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
UNARY = ("neg", "pos", "abs", "trunc", "floor", "ceil", "round")
COMPARED = ("eq", "ne", "lt", "le", "gt", "ge")
TOOLS = frozenset(("torch", "fxcache", "sympy"))  # whose code is to see symbols


def traced_number(value: Any) -> Any:
    """A symbolic number that passes for Python's; other values as they are."""
    if isinstance(value, torch.SymFloat) and not isinstance(value, TracedFloat):
        return TracedFloat(value.node)
    if isinstance(value, torch.SymInt) and not isinstance(value, TracedInt):
        return TracedInt(value.node)
    return value


def plain_number(value: Any) -> Any:
    """A key of a dictionary that was looked up, so that its numbers are known, with Python's own numbers."""
    if type(value) is tuple:
        return tuple(map(plain_number, value))
    if isinstance(value, TracedFloat):
        return float(value)
    return int(value) if isinstance(value, TracedInt) else value


def is_traced_number(value: Any) -> bool:
    """Whether `value` is one of these."""
    return isinstance(value, (TracedFloat, TracedInt))


def _arithmetic(base: type, name: str) -> Callable[..., Any]:
    plain = getattr(base, name)

    def compute(self: Any, *others: Any) -> Any:
        return traced_number(plain(self, *others))

    return compute


def _comparison(base: type, name: str) -> Callable[..., Any]:
    plain = getattr(base, name)

    def compare(self: Any, other: Any) -> Any:
        found = plain(self, other)
        return bool(found) if isinstance(found, torch.SymBool) and found.node.has_hint() else found

    return compare


def _methods(base: type) -> dict[str, Any]:
    reflected = [f"__r{name}__" for name in BINARY]
    named = [*(f"__{name}__" for name in (*BINARY, *UNARY)), *reflected]
    arithmetic = {n: _arithmetic(base, n) for n in named if n in vars(base)}
    return arithmetic | {f"__{n}__": _comparison(base, f"__{n}__") for n in COMPARED}


def _seen_by_tools(depth: int) -> bool:
    module = sys._getframe(depth + 1).f_globals.get("__name__", "")
    return str(module).partition(".")[0] in TOOLS


class _Traced:
    """What the two kinds share. plain: Python's kind of number. symbolic: torch's."""

    plain: ClassVar[Any]
    symbolic: ClassVar[Any]

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # what `isinstance` asks, unless the type fits
        return type(self) if _seen_by_tools(1) else self.plain  # type: ignore[no-any-return]

    def __hash__(self) -> int:
        return hash(self.plain(self))

    def __repr__(self) -> str:
        return str(self.symbolic.__repr__(self) if _seen_by_tools(1) else repr(self.plain(self)))

    def __format__(self, spec: str) -> str:
        return object.__format__(self, spec) if _seen_by_tools(1) else format(self.plain(self), spec)

    def __copy__(self) -> _Traced:
        return self

    def __deepcopy__(self, memo: Any) -> _Traced:
        return self

    def __reduce__(self) -> Any:
        return self.plain, (self.plain(self),)


class TracedFloat(_Traced, torch.SymFloat):
    """A symbolic float."""

    plain, symbolic = float, torch.SymFloat
    vars().update(_methods(torch.SymFloat))
    __hash__ = _Traced.__hash__  # a class that compares anew has none of its own

    def __bool__(self) -> bool:
        return bool(self != 0)


class TracedInt(_Traced, torch.SymInt):
    """A symbolic int."""

    plain, symbolic = int, torch.SymInt
    vars().update(_methods(torch.SymInt))
    __hash__ = _Traced.__hash__
