"""Which sizes an engine is built for: a range for every dynamic dimension of the model's inputs.

The captured graph knows its sizes as symbols with conditions on them. Dimensions that the model ties
together (batch of every input, rows of position ids and image tokens) move together; how far is what
the conditions allow, unless the caller says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch

from ...environment.trace_sandbox import pristine
from ...errors import EngineRangeError
from ...ir.guards import ShapeGuards
from ...ir.interpret import StageInterpreter
from ...ir.program import Program
from ...torch_private import FakeTensorMode

Shape = tuple[int, ...]
Bounds = tuple[int, int] | tuple[int, int, int]
Dynamic = bool | Mapping[str, Mapping[int, Bounds]]


@dataclass(frozen=True)
class Spec:
    """One value of the program: lowest, usual and highest shape, and what it is made of.

    A number (a size that passes between stages) has `number` and no shape.
    """

    low: Shape
    usual: Shape
    high: Shape
    dtype: torch.dtype | None = None
    device: torch.device | None = None
    number: int | None = None

    @property
    def fixed(self) -> bool:
        return self.low == self.high

    def example(self) -> Any:
        """A value of the usual shape, zeros."""
        if self.dtype is None:
            return self.number
        return torch.zeros(self.usual, dtype=self.dtype, device=self.device)

    def open_dims(self) -> dict[int, tuple[int, int]]:
        """dimension → (lowest, highest), of those that vary."""
        pairs = zip(self.low, self.high, strict=True)
        return {d: (low, high) for d, (low, high) in enumerate(pairs) if low != high}


@dataclass(frozen=True)
class Sizes:
    """Shapes of the flat inputs at the lowest, the usual and the highest sizes."""

    low: tuple[Shape, ...]
    usual: tuple[Shape, ...]
    high: tuple[Shape, ...]

    def hold(self, shapes: Sequence[Shape]) -> bool:
        """Whether engines for these sizes can serve inputs of `shapes`."""
        return all(
            len(s) == len(low) and all(a <= x <= b for a, x, b in zip(low, s, high, strict=True))
            for s, low, high in zip(shapes, self.low, self.high, strict=True)
        )


def sizes_of(program: Program, usual: Sequence[Shape], dynamic: Dynamic) -> Sizes:
    """The range of sizes around `usual`.

    Args:
        usual: shapes of the flat inputs that engines are tuned for.
        dynamic: False for these shapes only; True for as wide a range as the captured conditions allow,
            up to twice the usual size; or input name → dimension → (lowest, highest) or
            (lowest, usual, highest), other dimensions following where the model ties them.

    Raises:
        EngineRangeError: the model cannot be called at an end of the range.
    """
    shapes = tuple(tuple(s) for s in usual)
    if dynamic is False:
        return Sizes(shapes, shapes, shapes)
    moves = _Moves(program.capture.shapes.also(program.assumed), shapes)
    if dynamic is True:
        return moves.widest()
    return moves.asked(program.capture.inputs, dynamic)


class _Moves:
    """Changes of sizes that the conditions of a capture allow."""

    def __init__(self, guards: ShapeGuards, usual: tuple[Shape, ...]) -> None:
        self.guards = guards
        values = guards.bind([torch.Size(s) for s in usual])
        if values is None:
            raise EngineRangeError("these inputs", "the graph was captured for other sizes")
        self.usual = {s: int(v) for s, v in values.items()}
        self.groups = list(self._groups())

    def holds(self, values: Mapping[sympy.Symbol, int]) -> bool:
        return self.guards.bind(self.shapes(values)) is not None

    def shapes(self, values: Mapping[sympy.Symbol, int]) -> list[torch.Size]:
        rows = self.guards.dims
        return [torch.Size(values[d] if isinstance(d, sympy.Symbol) else int(d) for d in row) for row in rows]

    def _groups(self) -> Iterator[frozenset[sympy.Symbol]]:
        """Least sets of equal sizes that can change together, the other sizes staying as they are."""
        left = self._tied()
        while left:
            first, *left = left
            wholes = [first, *(first | other for other in left if self._alike(first, other))]
            for whole in wholes:
                if self._can_move(whole):
                    yield whole
                    left = [g for g in left if not g <= whole]
                    break

    def _tied(self) -> list[frozenset[sympy.Symbol]]:
        groups = [{s} for s in self.usual]
        for condition in self.guards.conditions:
            if isinstance(condition, sympy.Eq) and all(isinstance(a, sympy.Symbol) for a in condition.args):
                joined = [g for g in groups if g & set(condition.args)]
                groups = [g for g in groups if g not in joined] + [set[sympy.Symbol]().union(*joined)]
        return [frozenset(g) for g in groups]

    def _alike(self, one: frozenset[sympy.Symbol], other: frozenset[sympy.Symbol]) -> bool:
        return self.usual[next(iter(one))] == self.usual[next(iter(other))]

    def _can_move(self, group: frozenset[sympy.Symbol]) -> bool:
        size = self.usual[next(iter(group))]
        return any(self.holds(self._moved({group: s})) for s in (*_above(size), *_below(size)))

    def _moved(self, to: Mapping[frozenset[sympy.Symbol], int]) -> dict[sympy.Symbol, int]:
        return {**self.usual, **{s: size for group, size in to.items() for s in group}}

    def widest(self) -> Sizes:
        """Every group as far down and up as the conditions allow, one after the other."""
        low: dict[frozenset[sympy.Symbol], int] = {}
        high: dict[frozenset[sympy.Symbol], int] = {}
        for group in self.groups:
            size = self.usual[next(iter(group))]
            low[group] = next((s for s in _below(size) if self._fits(low, high, group, s)), size)
            high[group] = next((s for s in _above(size) if self._fits(high, low, group, s)), size)
        return self._between(low, high)

    def _fits(self, ends: Any, others: Any, group: frozenset[sympy.Symbol], size: int) -> bool:
        alone, together = {group: size}, {**ends, group: size}
        return self.holds(self._moved(alone)) and self.holds(self._moved(together))

    def asked(self, names: Sequence[str], dynamic: Mapping[str, Mapping[int, Bounds]]) -> Sizes:
        low: dict[frozenset[sympy.Symbol], int] = {}
        high: dict[frozenset[sympy.Symbol], int] = {}
        for name, dims in dynamic.items():
            if name not in names:
                raise EngineRangeError(name, f"the model's tensor inputs are {', '.join(names)}")
            for dim, bounds in dims.items():
                group = self._group_of(name, self.guards.dims[names.index(name)], dim)
                low[group], high[group] = bounds[0], bounds[-1]
                if not low[group] <= self.usual[next(iter(group))] <= high[group]:
                    raise EngineRangeError(
                        f"dimension {dim} of {name}", "the range leaves the usual size out"
                    )
        for end in (low, high):
            if not self.holds(self._moved(end)):
                sizes = [tuple(s) for s in self.shapes(self._moved(end))]
                raise EngineRangeError(
                    f"the range asked for (inputs {sizes})", "the model cannot be called so"
                )
        return self._between(low, high)

    def _group_of(self, name: str, row: Sequence[Any], dim: int) -> frozenset[sympy.Symbol]:
        symbol = row[dim] if -len(row) <= dim < len(row) else None
        group = next((g for g in self.groups if symbol in g), None)
        if group is None:
            raise EngineRangeError(f"dimension {dim} of {name}", "the captured graph holds for one size only")
        return group

    def _between(self, low: Any, high: Any) -> Sizes:
        cases: tuple[Any, ...] = (low, {}, high)
        ends = [tuple(tuple(s) for s in self.shapes(self._moved(end))) for end in cases]
        return Sizes(*ends)


def _above(size: int) -> tuple[int, ...]:
    return tuple(s for s in (2 * size, size * 3 // 2, size + 2) if s > size)


def _below(size: int) -> tuple[int, ...]:
    return tuple(s for s in (2, size // 2, size - 2) if 1 < s < size)


def specs_of(program: Program, sizes: Sizes) -> dict[str, Spec]:
    """Every value that passes between stages, by name, from runs on fake tensors at both ends.

    Raises `EngineRangeError` where the shape of state depends on data.
    """
    low = _described(program, sizes.low)
    usual = low if sizes.usual == sizes.low else _described(program, sizes.usual)
    high = usual if sizes.high == sizes.usual else _described(program, sizes.high)
    return {name: spec(low[name], usual[name], high[name]) for name in usual}


def spec(low: Any, usual: Any, high: Any) -> Spec:
    """The spec of one value, from what it is at three sizes."""
    if not isinstance(usual, torch.Tensor):
        return Spec((), (), (), number=usual)
    return Spec(tuple(low.shape), tuple(usual.shape), tuple(high.shape), usual.dtype, usual.device)


def _described(program: Program, shapes: Sequence[Shape]) -> dict[str, Any]:
    placeholders = program.capture.graph.graph.find_nodes(op="placeholder")
    symbols = program.capture.shapes.bind([torch.Size(s) for s in shapes])
    assert symbols is not None
    values: dict[str, Any] = {}
    with pristine(program.capture.model), torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True):
        for node, shape in zip(placeholders, shapes, strict=True):
            like = node.meta["val"]
            values[node.name] = torch.empty(shape, dtype=like.dtype, device=like.device)
        for tensor in program.state:
            size = tensor.sizes(symbols)
            if size is None:
                raise EngineRangeError(
                    tensor.name, "its shape depends on data, which TensorRT cannot allocate"
                )
            values[tensor.name] = torch.empty(size, dtype=tensor.dtype, device=tensor.device)
        StageInterpreter(len(program.segments)).every(program.stages, values)
    return values
