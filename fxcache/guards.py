"""When may a captured graph serve another call: guards on sizes and on values that the glue read."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch.fx import GraphModule
from torch.fx.experimental.symbolic_shapes import ShapeEnv


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
                conditions += [sympy.Ge(dim, bounds.lower), sympy.Le(dim, bounds.upper)]
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


@dataclass
class ValueGuards:
    """Tensor values that the glue read while it was traced, checked again on every call.

    `program` computes them from the flat inputs; `sources` are the inputs that it needs. The check is
    skipped while those inputs are the very tensors of the last good check, unwritten.
    """

    program: GraphModule
    expected: tuple[torch.Tensor, ...]
    sources: tuple[int, ...]
    reads: tuple[str, ...]
    _last: tuple[tuple[Any, int], ...] = field(default=(), compare=False)

    def hold(self, inputs: Sequence[torch.Tensor]) -> bool:
        stamp = self._stamp(inputs)
        if stamp is not None and self._same(stamp):
            return True
        found = self.program(*inputs)
        good = all(
            e.shape == f.shape and e.dtype == f.dtype and torch.equal(e.to(f.device), f)
            for e, f in zip(self.expected, found, strict=True)
        )
        if good and stamp is not None:
            self._last = stamp
        return good

    def _stamp(self, inputs: Sequence[torch.Tensor]) -> tuple[tuple[Any, int], ...] | None:
        chosen = [inputs[i] for i in self.sources]
        if any(t.is_inference() for t in chosen):  # these keep no version to tell writes by
            return None
        return tuple((weakref.ref(t), t._version) for t in chosen)

    def _same(self, stamp: tuple[tuple[Any, int], ...]) -> bool:
        return len(stamp) == len(self._last) and all(
            a() is b() and a() is not None and v == w
            for (a, v), (b, w) in zip(stamp, self._last, strict=True)
        )
