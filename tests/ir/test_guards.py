"""`ShapeGuards` and `ValueGuards`: for which calls a captured graph holds."""

from __future__ import annotations

import pytest
import sympy
import torch
from torch import Tensor
from torch.fx import symbolic_trace

from fxcache.ir.guards import ShapeGuards, ValueGuards

A, B = sympy.symbols("a b", integer=True, positive=True)


def shapes(*sizes: tuple[int, ...]) -> list[torch.Size]:
    return [torch.Size(s) for s in sizes]


def test_symbols_are_bound_and_numbers_must_fit() -> None:
    guards = ShapeGuards(((sympy.Integer(1), A), (A, B)), ())
    assert guards.bind(shapes((1, 4), (4, 7))) == {A: 4, B: 7}
    assert guards.bind(shapes((2, 4), (4, 7))) is None
    assert guards.bind(shapes((1, 4), (5, 7))) is None
    assert guards.bind(shapes((1, 4, 1), (4, 7))) is None


@pytest.mark.parametrize(
    ("condition", "good", "bad"),
    [
        (sympy.Gt(A, 3), 4, 3),
        (sympy.Eq(A % 4, 0, evaluate=False), 8, 6),
        (sympy.Ne(A, 5), 4, 5),
        (sympy.Eq(A, 5, evaluate=False), 5, 6),
    ],
)
def test_conditions_hold_or_not(condition: sympy.Basic, good: int, bad: int) -> None:
    guards = ShapeGuards(((A,),), ()).also([condition])
    assert guards.bind(shapes((good,))) is not None
    assert guards.bind(shapes((bad,))) is None


def test_conditions_on_sizes_that_depend_on_data_are_left_to_the_graph() -> None:
    data = sympy.Symbol("u0", integer=True)
    guards = ShapeGuards(((A,),), (sympy.Gt(data, 3), sympy.Eq(data, A, evaluate=False)))
    assert guards.bind(shapes((2,))) is not None


def test_open_dims_are_those_that_nothing_fixes() -> None:
    guards = ShapeGuards(((sympy.Integer(1), A), (B,)), (sympy.Eq(B, 5, evaluate=False),))
    assert guards.open_dims() == [(0, 1)]


def guarded(expected: Tensor) -> tuple[ValueGuards, list[int]]:
    runs: list[int] = []
    program = symbolic_trace(lambda x, y: (x > 0,))
    counted = program.forward

    def forward(*args: Tensor) -> object:
        runs.append(1)
        return counted(*args)

    program.forward = forward  # type: ignore[method-assign]
    return ValueGuards(program, (expected,), (0,), (), ("x > 0",)), runs


def test_values_are_compared_and_computed_only_when_their_sources_changed() -> None:
    guards, runs = guarded(torch.tensor([True, False]))
    x, y = torch.tensor([1.0, -1.0]), torch.zeros(1)
    assert guards.hold([x, y]) and len(runs) == 1
    assert guards.hold([x.clone(), y + 1]) and len(runs) == 1
    assert guards.hold([torch.tensor([2.0, -5.0]), y]) and len(runs) == 2
    assert not guards.hold([torch.tensor([2.0, 5.0]), y])
    assert not guards.hold([torch.tensor([2.0]), y])


def test_writes_past_autograd_are_seen() -> None:
    guards, _ = guarded(torch.tensor([True]))
    x = torch.ones(1)
    assert guards.hold([x, x])
    x.numpy()[0] = -1
    assert not guards.hold([x, x])
    x.data.fill_(1)
    assert guards.hold([x, x])


def test_a_nan_that_was_read_is_the_same_nan() -> None:
    program = symbolic_trace(lambda x: (x * 2,))
    guards = ValueGuards(program, (torch.tensor([float("nan")]),), (0,), (), ())
    assert guards.hold([torch.tensor([float("nan")])])
    assert not guards.hold([torch.tensor([1.0])])


def test_a_program_that_fails_on_these_values_does_not_hold() -> None:
    program = symbolic_trace(lambda x: (x.view(4),))
    guards = ValueGuards(program, (torch.zeros(4),), (0,), (), ())
    assert guards.hold([torch.zeros(2, 2)])
    assert not guards.hold([torch.zeros(3)])


def test_running_out_of_memory_is_no_answer() -> None:
    program = symbolic_trace(lambda x: (x,))

    def forward(x: Tensor) -> object:
        raise torch.OutOfMemoryError("no memory")

    program.forward = forward  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        ValueGuards(program, (torch.zeros(1),), (0,), (), ()).hold([torch.zeros(1)])
