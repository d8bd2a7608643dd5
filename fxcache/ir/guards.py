"""When may a captured graph serve another call: guards on sizes and on values that the glue read."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch.fx import GraphModule

from ..environment.values import exact
from ..torch_private import ShapeEnv
from .host_reads import read


@dataclass(frozen=True)
class ShapeGuards:
    """Conditions on the sizes of the flat inputs under which a symbolic capture holds.

    `dims[i][d]` is the symbol or number that size `d` of input `i` was traced with.
    """

    dims: tuple[tuple[sympy.Expr, ...], ...]
    conditions: tuple[Any, ...]

    @staticmethod
    def of(env: ShapeEnv, dims: Sequence[Sequence[sympy.Expr]]) -> ShapeGuards:
        conditions: list[Any] = [guard.expr for guard in env.guards]
        for symbol, value in env.replacements.items():
            conditions.append(sympy.Eq(symbol, value, evaluate=False))
        for dim in {d for row in dims for d in row if isinstance(d, sympy.Symbol)}:
            bounds = env.var_to_range.get(dim)
            if bounds is not None:
                if bounds.lower.is_finite:
                    conditions.append(sympy.Ge(dim, bounds.lower))
                if bounds.upper.is_finite and bounds.upper < sys.maxsize - 1:
                    conditions.append(sympy.Le(dim, bounds.upper))
        return ShapeGuards(tuple(tuple(row) for row in dims), tuple(conditions))

    def bind(self, shapes: Sequence[torch.Size]) -> dict[sympy.Symbol, sympy.Integer] | None:
        """Values of the symbols for these sizes, or None where the capture does not hold for them."""
        values: dict[sympy.Symbol, sympy.Integer] = {}
        for row, shape in zip(self.dims, shapes, strict=True):
            if len(row) != len(shape):
                return None
            for dim, size in zip(row, shape, strict=True):
                if isinstance(dim, sympy.Symbol):
                    if values.setdefault(dim, sympy.Integer(size)) != size:
                        return None
                elif int(dim) != size:
                    return None
        for condition in self.conditions:
            if not _holds(condition, values):
                return None
        return values

    def also(self, conditions: Sequence[Any]) -> ShapeGuards:
        """These guards and some more conditions."""
        return ShapeGuards(self.dims, (*self.conditions, *conditions))

    def open_dims(self) -> list[tuple[int, int]]:
        """(input, dimension) pairs that the capture leaves free."""
        fixed = {
            c.lhs
            for c in self.conditions
            if isinstance(c, sympy.Eq) and not getattr(c.rhs, "free_symbols", None)
        }
        return [
            (i, d)
            for i, row in enumerate(self.dims)
            for d, dim in enumerate(row)
            if isinstance(dim, sympy.Symbol) and dim not in fixed
        ]


def _holds(condition: Any, values: dict[sympy.Symbol, sympy.Integer]) -> bool:
    if isinstance(condition, sympy.Eq):  # unevaluated: substitute side by side
        left, right = (sympy.sympify(side).xreplace(values) for side in condition.args)
        if left.free_symbols or right.free_symbols:
            return True  # about sizes that depend on data, which the graph works out as it runs
        return bool(left == right)
    result = condition.xreplace(values) if hasattr(condition, "xreplace") else condition
    if getattr(result, "free_symbols", None):
        return True
    return bool(result)


@dataclass(frozen=True)
class _Seen:
    """A tensor as it was when it was last checked."""

    tensor: weakref.ref[torch.Tensor]
    version: int | None
    content: torch.Tensor | None

    @staticmethod
    def now(tensor: torch.Tensor) -> _Seen:
        # In main memory others may write to it (a numpy array, `.data`), and comparing is cheap. On an
        # accelerator it would wait for the device; the version tells of writes, except for inference
        # tensors, which keep none.
        if tensor.device.type == "cpu":
            return _Seen(weakref.ref(tensor), None, tensor.detach().clone())
        return _Seen(weakref.ref(tensor), None if tensor.is_inference() else tensor._version, None)

    def still(self, tensor: torch.Tensor) -> bool:
        """Whether `tensor` surely holds what it held."""
        if self.content is not None:
            return torch.equal(self.content, tensor)
        unwritten = self.version is not None and self.version == tensor._version
        return unwritten and self.tensor() is tensor


@dataclass
class ValueGuards:
    """Tensors and numbers that the glue read, or was told, while it was traced, checked again on every call.

    `program` computes them from the flat inputs; `sources` are the inputs that it needs, `attributes`
    the model's own tensors. It is not run while all of these hold what they held at the last good check.
    """

    program: GraphModule
    expected: tuple[Any, ...]
    sources: tuple[int, ...]
    attributes: tuple[torch.Tensor, ...]
    reads: tuple[str, ...]
    _seen: tuple[_Seen, ...] = field(default=(), compare=False)

    def hold(self, inputs: Sequence[torch.Tensor]) -> bool:
        """Whether the values read are, on these inputs, what the graph was made for."""
        watched = (*(inputs[i] for i in self.sources), *self.attributes)
        if self._seen and all(s.still(t) for s, t in zip(self._seen, watched, strict=True)):
            return True
        try:
            found = self.program(*inputs)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception:  # baked sizes do not fit these values: another graph is needed
            return False
        good = same_values(self.expected, found)
        if good:
            self._seen = tuple(_Seen.now(t) for t in watched)
        return good


def same_values(expected: Sequence[Any], found: Sequence[Any]) -> bool:
    """Whether numbers and tensors are what was expected; NaNs are equal. Waits once for a device."""
    alike = [_alike(one, other) for one, other in zip(expected, found, strict=True)]
    if any(flag is False for flag in alike):
        return False
    return all(read([flag for flag in alike if isinstance(flag, torch.Tensor)]))


def _alike(expected: Any, found: Any) -> bool | torch.Tensor:
    """As `same_values`, of one; of tensors a 0-dim bool, which is not read yet."""
    if not isinstance(expected, torch.Tensor):
        return type(expected) is type(found) and exact(expected) == exact(found)
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    found = found.to(expected.device)
    if expected.is_floating_point():  # bit for bit: a NaN that was read before is the same NaN
        return torch.isclose(expected, found, rtol=0, atol=0, equal_nan=True).all()
    return (expected == found).all()
