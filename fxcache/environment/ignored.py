"""Options that a caller says do not matter: left out of the key, and out of what the forward is given.

A graph is captured for the options of one call. One that is ignored must not be in it, so the forward is
handed something in its place that it cannot look at: whoever tries is told, rather than served what the first
call had.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import nn

from ..errors import ConfigError, IgnoredInputError

CARRYING = frozenset({"fxcache", "torch"})  # may carry it about
BETWEEN = frozenset({"abc", "copy", "dataclasses"})  # may be asked to by anybody


def paths_of(ignore: str | Sequence[str]) -> tuple[str, ...]:
    """Paths as a caller may give them: one, or several."""
    return (ignore,) if isinstance(ignore, str) else tuple(ignore)


class AbsentError(LookupError):
    """There is nothing at a path; `known` has what there is instead."""

    def __init__(self, known: tuple[str, ...]) -> None:
        self.known = known


@dataclass(frozen=True)
class IgnoredOption:
    """A dotted path from an argument through the keys of mappings, items of lists and attributes.

    Example:
        >>> from fxcache.environment.ignored import IgnoredOption
        >>> bound = {"options": {"uuids": [1, 2], "cond_or_uncond": [0]}}
        >>> hidden = IgnoredOption("options.uuids").hidden(bound)
        >>> hidden["options"]
        {'uuids': <ignored options.uuids>, 'cond_or_uncond': [0]}
        >>> hidden["options"]["uuids"][0]
        Traceback (most recent call last):
        fxcache.errors.IgnoredInputError: ignore=('options.uuids',) leaves out what the model looks at ...
    """

    path: str

    @property
    def argument(self) -> str:
        """The argument that it begins with."""
        return self.path.split(".")[0]

    def hidden(self, bound: Mapping[str, Any]) -> Any:
        """The arguments with nothing to be seen there. None stays None, which is told apart by `is`.

        What is on the way is copied, so that the caller's own stays as it is. Raises `AbsentError`.
        """
        return self._hidden(bound, self.path.split("."), "")

    def _hidden(self, holder: Any, parts: list[str], before: str) -> Any:
        first, *rest = parts
        read, known, write = _access(holder, first)
        if read is None:
            raise AbsentError(tuple(before + k for k in known))
        value = read()
        if rest:
            return write(self._hidden(value, rest, f"{before}{first}."))
        return holder if value is None else write(Ignored(self.path))


class Ignored:
    """What a forward is given in the place of an ignored option. It can be carried about, and that is all.

    Raises `IgnoredInputError` to all other code that looks at it, even by `isinstance`.
    """

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        object.__setattr__(self, "_path", path)

    def __repr__(self) -> str:
        return f"<ignored {object.__getattribute__(self, '_path')}>"

    def __deepcopy__(self, *memo: Any) -> Ignored:
        return self

    __copy__ = __deepcopy__

    def __getattribute__(self, name: str) -> Any:
        if name in ("__deepcopy__", "__copy__") or _carried(sys._getframe(1)):
            return object.__getattribute__(self, name)
        raise IgnoredInputError(object.__getattribute__(self, "_path"))


def _carried(frame: FrameType | None) -> bool:
    """Whether it is fxcache or torch that looks."""
    while frame is not None and frame.f_globals.get("__name__") in BETWEEN:
        frame = frame.f_back
    return frame is not None and str(frame.f_globals.get("__name__")).split(".")[0] in CARRYING


def _refusing(name: str) -> Callable[..., Any]:
    usual = getattr(object, name, None)

    def look(self: Ignored, *args: Any) -> Any:
        if usual is not None and _carried(sys._getframe(1)):
            return usual(self, *args)
        raise IgnoredInputError(object.__getattribute__(self, "_path"))

    return look


for _name in (
    "__str__", "__format__", "__bool__", "__len__", "__iter__", "__next__", "__contains__", "__getitem__",
    "__setitem__", "__delitem__", "__call__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__",
    "__hash__", "__int__", "__float__", "__index__", "__bytes__", "__enter__", "__exit__", "__add__",
    "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__", "__rtruediv__", "__neg__",
    "__setattr__", "__delattr__",
):  # fmt: skip
    setattr(Ignored, _name, _refusing(_name))


Read = Callable[[], Any]
Write = Callable[[Any], Any]


def _access(holder: Any, name: str) -> tuple[Read | None, tuple[str, ...], Write]:
    """How `name` of `holder` is read, None where it has none; what else it has; a copy with another value."""
    if isinstance(holder, Mapping):
        read = (lambda: holder[name]) if name in holder else None
        return read, tuple(map(str, holder)), lambda value: _with_item(holder, name, value)
    if isinstance(holder, tuple) and hasattr(holder, "_fields"):
        read = (lambda: getattr(holder, name)) if name in holder._fields else None
        return read, holder._fields, lambda value: _with_field(holder, name, value)
    if isinstance(holder, (list, tuple)):
        places = tuple(map(str, range(len(holder))))
        read = (lambda: holder[int(name)]) if name in places else None
        return read, places, lambda value: type(holder)(_with_item(list(holder), int(name), value))
    known = tuple(n for n in getattr(holder, "__dict__", {}) if not n.startswith("_"))
    plain = hasattr(holder, name) and not isinstance(holder, (nn.Module, type))
    read = (lambda: getattr(holder, name)) if plain else None
    return read, known, lambda value: _with_attribute(holder, name, value)


def _with_field(holder: Any, name: str, value: Any) -> Any:
    items = zip(holder._fields, holder, strict=True)
    return type(holder)(*(value if field == name else item for field, item in items))


def _with_item(holder: Any, key: Any, value: Any) -> Any:
    copied = copy.copy(holder)
    copied[key] = value
    return copied


def _with_attribute(holder: Any, name: str, value: Any) -> Any:
    try:
        copied = copy.copy(holder)
        object.__setattr__(copied, name, value)
    except (AttributeError, TypeError) as error:
        need = f"a {type(holder).__name__} cannot be copied with another value there ({error})"
        raise ConfigError("ignore", name, need, of="fxcache.transform()") from error
    return copied
