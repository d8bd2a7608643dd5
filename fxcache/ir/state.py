"""What is remembered between steps: named tensors, passed to the graph and updated in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import sympy
import torch

from ..errors import GraphSpecError
from .keys import RECORD

Size: TypeAlias = int | sympy.Expr


def record_of(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What is left of a trajectory's state once it is over: enough for `stats()`."""
    return {name: tensor for name, tensor in state.items() if RECORD.fullmatch(name)}


@dataclass(frozen=True)
class StateTensor:
    """One state tensor of the graph.

    shape: numbers, or expressions in the symbols of the capture's input sizes.
    initial: rows of starting values, or None for zeros.
    """

    name: str
    shape: tuple[Size, ...]
    dtype: torch.dtype
    device: torch.device
    initial: tuple[tuple[float, ...], ...] | None = None

    @staticmethod
    def like(name: str, value: torch.Tensor, slots: int | None = None) -> StateTensor:
        """A tensor shaped like a traced value; or `slots` of them, in one tensor."""
        shape = tuple(s.node.expr if isinstance(s, torch.SymInt) else int(s) for s in value.shape)
        ring = () if slots is None else (slots,)
        return StateTensor(name, (*ring, *shape), value.dtype, value.device)

    def sizes(self, symbols: Mapping[sympy.Symbol, int]) -> tuple[int, ...] | None:
        """The shape at these input sizes, or None where it depends on data."""
        found: list[int] = []
        for size in self.shape:
            number = size.xreplace(dict(symbols)) if isinstance(size, sympy.Expr) else size
            if getattr(number, "free_symbols", None):
                return None
            found.append(int(number))
        return tuple(found)

    def allocate(self, symbols: Mapping[sympy.Symbol, int], known: Any = None) -> torch.Tensor:
        """A fresh tensor for these input sizes; `known` gives a shape that depends on data."""
        sizes = self.sizes(symbols)
        if sizes is None and known is not None:  # that of one value, which there may be several of
            sizes = (*self.shape[: len(self.shape) - len(known)], *known)
        if sizes is None:
            raise GraphSpecError("state", f"the shape of '{self.name}' depends on data")
        if self.initial is not None:
            return torch.tensor(self.initial, dtype=self.dtype, device=self.device).reshape(sizes)
        return torch.zeros(sizes, dtype=self.dtype, device=self.device)

    def bytes(self, symbols: Mapping[sympy.Symbol, int]) -> int:
        """Memory at these input sizes."""
        total = self.dtype.itemsize
        for size in self.sizes(symbols) or (0,):
            total *= size
        return total
