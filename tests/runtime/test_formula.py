"""Formulas tell values of one meaning from others, also between two traces of one model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node, symbolic_trace

from fxcache.runtime.formula import Incomparable, formula

LINEARS = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("first", "second", "block")})
Ends = Callable[[nn.ModuleDict, Tensor, Tensor], Any]


class Ending(nn.Module):
    """A block, and what follows it."""

    def __init__(self, ends: Ends) -> None:
        super().__init__()
        self.linears, self.ends = LINEARS, ends

    def forward(self, x: Tensor, time: Tensor) -> Any:
        return self.ends(self.linears, self.linears["block"](x * 2), time)


def formula_of(ends: Ends, named: bool = True) -> Any:
    graph = symbolic_trace(Ending(ends))
    (value,) = graph.graph.output_node().all_input_nodes
    blocks = {n: "block" for n in graph.graph.nodes if n.target == "linears.block"}
    names: dict[Node, Any] = blocks if named else {}
    return formula(graph, value, names)


def plain(linears: nn.ModuleDict, x: Tensor, time: Tensor) -> Tensor:
    return linears["first"](x) * torch.tensor([1.0, 0.0]) + time


DIFFERENT: tuple[Ends, ...] = (
    lambda m, x, t: m["second"](x) * torch.tensor([1.0, 0.0]) + t,
    lambda m, x, t: m["first"](x) * torch.tensor([1.0, -0.0]) + t,
    lambda m, x, t: m["first"](x) * torch.tensor([1.0, 0.0]) - t,
    lambda m, x, t: m["first"](x) * torch.tensor([1.0, 0.0]) + x,
    lambda m, x, t: m["first"](t) * torch.tensor([1.0, 0.0]) + t,
)


def test_two_traces_give_equal_formulas() -> None:
    assert formula_of(plain) == formula_of(plain)
    assert formula_of(plain, named=False) == formula_of(plain, named=False)
    assert formula_of(plain) != formula_of(plain, named=False)


@pytest.mark.parametrize("ends", DIFFERENT)
def test_another_module_number_operator_or_operand_is_another_formula(ends: Ends) -> None:
    assert formula_of(ends) == formula_of(ends)
    assert formula_of(ends) != formula_of(plain)


@pytest.mark.parametrize(("one", "other"), [(0.0, -0.0), (1, True), (1, 1.0), ((1, 2), (2, 1)), (None, 0)])
def test_numbers_count_with_their_type_and_sign(one: Any, other: Any) -> None:
    def using(value: Any) -> Any:
        return formula_of(lambda m, x, t: x.padded(value))

    assert using(one) == using(one)
    assert using(one) != using(other)


def test_an_object_that_cannot_be_told_from_another_has_no_formula() -> None:
    graph = symbolic_trace(Ending(plain))
    output = graph.graph.output_node()
    (value,) = output.all_input_nodes
    value.args = (value.args[0], range(2))  # type: ignore[assignment]
    with pytest.raises(Incomparable, match="range"):
        formula(graph, value, {})
