"""How the keys of two calls differ, in words: why a call needs a capture of its own."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .fingerprint import Fingerprint
from .structure import named_leaves

Key = tuple[Any, ...]
SHORT = 60  # characters of a value that are shown


@dataclass(frozen=True)
class Difference:
    """One thing about two calls that is not the same.

    sizes: whether it is the sizes of a tensor. number: whether it is a plain number.
    """

    name: str
    before: str
    now: str
    sizes: bool = False
    number: bool = False

    def __str__(self) -> str:
        what = f"the sizes of '{self.name}'" if self.sizes else f"'{self.name}'"
        return f"{what} changed from {self.before} to {self.now}"


def kind_of(key: Key) -> Key:
    """A call's key without sizes and values: what is left says how it is called, not with what."""
    return tuple(_kind(part) if is_argument(part) else part for part in key)


def is_argument(part: Any) -> bool:
    """Whether a part of a call's key is about an argument: its name is the first entry."""
    return type(part) is tuple and bool(part) and type(part[0]) is str


def _kind(part: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(part) == 2:
        spec, *leaves = part[1]
        return (part[0], spec, *map(_leaf_kind, leaves))
    return (part[0], *_leaf_kind(part[1:]))


def _leaf_kind(leaf: Any) -> tuple[Any, ...]:
    if isinstance(leaf, Fingerprint):
        return (Fingerprint,)
    return (*leaf[:-1], len(leaf[-1])) if len(leaf) == 4 else (leaf[0],)


def differences(before: Key, now: Key, bound: Mapping[str, Any]) -> list[Difference]:
    """What differs between the calls with these keys; the second has the arguments `bound`."""
    old, new = dict(_entries(before, bound)), dict(_entries(now, bound))
    found = []
    for name in {**new, **old}:
        a, b = old.get(name, ABSENT), new.get(name, ABSENT)
        if a != b:
            found.append(_difference(name, a, b))
    return found


@dataclass(frozen=True)
class _Absent:
    def __repr__(self) -> str:
        return "nothing"


ABSENT = (_Absent(),)


def _entries(key: Key, bound: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """(name, key) of every setting and every leaf of an argument."""
    settings = [part for part in key if not is_argument(part)]
    named = dict(zip(("ambient settings", "training mode", "positional"), reversed(settings), strict=False))
    for name, part in {"positional": 0, **named}.items():
        yield name, (type(part), part)
    for part in filter(is_argument, key):
        if len(part) != 2:
            yield part[0], part[1:]
            continue
        spec, *leaves = part[1]
        names = _leaf_names(part[0], bound.get(part[0]), len(leaves))
        yield f"structure of {part[0]}", (type(spec), spec)
        yield from zip(names, leaves, strict=True)


def _leaf_names(name: str, value: Any, count: int) -> list[str]:
    paths = [path for path, _ in named_leaves(name, value)]
    return paths if len(paths) == count else [f"{name} ({i})" for i in range(count)]


def _difference(name: str, before: tuple[Any, ...], now: tuple[Any, ...]) -> Difference:
    if isinstance(before, Fingerprint) and isinstance(now, Fingerprint):
        pairs = zip(before, now, strict=False)
        first = next(((a, b) for a, b in pairs if a != b), (len(before), len(now)))
        kind = getattr(before[0], "__name__", "value")
        if len(before) == len(now) == 3 and before[0] is now[0]:  # a plain value of its own kind
            return _difference(name, tuple(before[:2]), tuple(now[:2]))
        return Difference(name, f"{kind} with {_short(first[0])}", f"{kind} with {_short(first[1])}")
    if len(before) == len(now) == 4 and before[:-1] == now[:-1]:
        return Difference(name, str(tuple(before[-1])), str(tuple(now[-1])), sizes=True)
    number = before[0] is now[0] and before[0] in (int, float)
    return Difference(name, _described(before), _described(now), number=number)


def _described(leaf: tuple[Any, ...]) -> str:
    if len(leaf) == 4:
        return f"a tensor {tuple(leaf[-1])} of {leaf[0]} on {leaf[1]}"
    if isinstance(leaf, Fingerprint):
        return f"a {getattr(leaf[0], '__name__', 'value')}"
    value = leaf[-1]
    if leaf[0] is float and isinstance(value, bytes):
        value = struct.unpack("d", value)[0]
    return _short(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHORT else text[: SHORT - 3] + "..."


def same_sizes(before: Key, now: Key) -> bool:
    """Whether the tensors of two calls of one kind have the same sizes."""
    return list(_sizes(before)) == list(_sizes(now))


def _sizes(part: Any) -> Iterator[torch.Size]:
    if isinstance(part, torch.Size):
        yield part
    elif type(part) is tuple:
        for inner in part:
            yield from _sizes(inner)
