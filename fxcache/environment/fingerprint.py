"""Keys of Python values: where two are equal, a graph captured for one value is right for the other.

What counts by identity is referenced by the key, so that no other object can take its place while the key
lives. Everything else counts by value, all the way down; what cannot be told so is refused.
"""

from __future__ import annotations

from typing import Any

import torch

from ..torch_private import FakeTensor
from .values import Held, Outside, UntellableError, live, opened

LIMIT = 100_000  # values; to compare more of them would take longer than a step


class Fingerprint(tuple[Any, ...]):
    """A key that stands for a value."""

    __slots__ = ()


class Content:
    """A key part for a tensor that counts no writes: the same object, holding what it held."""

    __slots__ = ("copy", "tensor")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.copy = tensor.detach().clone()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Content) or other.tensor is not self.tensor:
            return False
        a, b = self.copy, other.copy
        alike = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
        if not alike or not a.is_floating_point():
            return alike and torch.equal(a, b)
        return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))

    def __hash__(self) -> int:
        return id(self.tensor)


def fingerprint(value: Any, contents: bool = True) -> Fingerprint:
    """The key of `value`. Raises `UntellableError` where its state cannot be seen.

    Tensors that are found count by identity and by how often they were written to. contents: those that do
    not count writes also count by what they hold.
    """
    key: list[Any] = []
    seen: dict[tuple[bool, int], int] = {}  # what was opened, and as which one
    alive: list[Any] = []  # an id in `seen` must not be used again meanwhile
    waiting = [value]
    while waiting:
        one = waiting.pop()
        kind = type(one)
        if isinstance(one, torch.Tensor) and kind is not torch.nn.Parameter:
            key += (kind, _tensor(one, contents))
            continue
        described, parts = opened(one)
        if parts:
            place = (True, id(one.value)) if kind is Outside else (False, id(one))
            known = seen.setdefault(place, len(alive))
            if known != len(alive):
                key += (Held, known)
                continue
            alive.append(one)
            waiting.extend(reversed(parts))
        key += (kind, described, len(parts))
        if len(key) + len(waiting) > 3 * LIMIT:
            raise UntellableError(f"{type(value).__name__} of more than {LIMIT:,} values")
    return Fingerprint(key)


def _tensor(value: torch.Tensor, contents: bool) -> tuple[Any, ...]:
    if isinstance(value, FakeTensor):  # its sizes may be symbols, which should not be compared
        return Held(value), 0 if value.is_inference() else value._version
    layout = value.is_contiguous() or value.stride() if value.layout is torch.strided else value.layout
    described = (*live(value), layout)
    if not value.is_inference():
        return (*described, value._version)
    return (*described, Content(value)) if contents else described
