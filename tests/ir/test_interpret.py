"""Stages run over named values: a step goes one way through each segment, a look at everything both."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from torch import nn
from torch.fx import Graph, GraphModule

from fxcache.ir.interpret import StageInterpreter
from fxcache.ir.stage import Stage


def stage(name: str, takes: str, gives: str, function: Callable[[Any, Any], Any], number: Any) -> Stage:
    """`gives = function(takes, number)`; the decision of a front is the value `ask` as it came in."""
    graph = Graph()
    value, ask = graph.placeholder(takes), graph.placeholder("ask")
    graph.output((graph.call_function(function, (value, number)), ask))
    index = name.rpartition("_")[2] if name[-1].isdigit() else "0"
    decides = f"hit_{index}" if name.startswith("front") else "asked"
    asks = f"ask_{index}"
    return Stage(name, GraphModule(nn.Module(), graph), (takes, asks), (gives, decides))


def stages(segments: int) -> dict[str, Stage]:
    found: list[Stage] = []
    for i, suffix in enumerate([""] if segments == 1 else [f"_{i}" for i in range(segments)]):
        found.append(stage("front" + suffix, "x" if i == 0 else f"y{i - 1}", f"f{i}", operator.add, 1))
        found.append(stage("skip" + suffix, f"f{i}", f"y{i}", operator.mul, 2))
        found.append(stage("compute" + suffix, f"f{i}", f"y{i}", operator.mul, 10))
    found.append(stage("back", f"y{segments - 1}", "output_0", operator.sub, 3))
    return {s.name: s for s in found}


@pytest.mark.parametrize(
    ("asks", "result"),
    [
        ([True], 2 * 6 - 3),
        ([False], 10 * 6 - 3),
        ([True, True], 2 * (2 * 6 + 1) - 3),
        ([True, False], 10 * (2 * 6 + 1) - 3),
        ([False, True], 2 * (10 * 6 + 1) - 3),
    ],
)
def test_a_step_goes_the_way_that_each_front_decided(asks: list[bool], result: int) -> None:
    values: dict[str, Any] = {"x": 5, **{f"ask_{i}": ask for i, ask in enumerate(asks)}}
    StageInterpreter(len(asks)).step(stages(len(asks)), values)
    assert values["output_0"] == result


def test_every_stage_runs_in_order() -> None:
    class Noting(StageInterpreter):
        def run(self, stage: Stage, values: dict[str, Any]) -> None:
            super().run(stage, values)
            ran.append((stage.name, values[stage.outputs[0]]))

    ran: list[tuple[str, int]] = []
    Noting(1).every(stages(1), {"x": 5, "ask_0": True})
    assert ran == [("front", 6), ("skip", 12), ("compute", 60), ("back", 57)]


def test_a_subclass_decides() -> None:
    class Never(StageInterpreter):
        def hits(self, index: int, values: Mapping[str, Any]) -> bool:
            return False

    values: dict[str, Any] = {"x": 5, "ask_0": True}
    Never(1).step(stages(1), values)
    assert values["output_0"] == 57


def test_a_stage_that_returns_more_or_less_than_it_says() -> None:
    named = stages(1)
    named["skip"] = Stage("skip", named["skip"].graph, named["skip"].inputs, ("y0",))
    with pytest.raises(ValueError, match="zip"):
        StageInterpreter(1).step(named, {"x": 5, "ask_0": True})
