"""Let the host write the state that a stage computes, instead of the stage.

TorchInductor's C++ code generator may fuse the writes of a forecaster's factors with the layer norm that
follows the middle, and fails on that (`KeyError` in its outer loop fusion, torch 2.13).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.fx import Graph, GraphModule, Node

from ...ir.stage import Stage
from ...ops.cond import store
from .dispatch import Runner


def defer_stores(stage: Stage, compiled: Callable[[GraphModule], Runner]) -> Runner:
    """`stage`, compiled without its `store` nodes; the same values are written once it ran."""
    graph, slots = _without_stores(stage)
    run = compiled(graph)
    if not slots:
        return run
    given = len(stage.outputs)

    def step(*values: Any) -> tuple[Any, ...]:
        results = run(*values)
        for slot, value in zip(slots, results[given:], strict=True):
            values[slot].copy_(value)
        return results[:given]

    return step


def _without_stores(stage: Stage) -> tuple[GraphModule, list[int]]:
    """The graph with what it stored as further outputs, and the places of the slots among its inputs."""
    graph, copies = Graph(), dict[Node, Node]()
    output = graph.graph_copy(stage.graph.graph, copies)
    stores = [copies[n] for n in stage.graph.graph.find_nodes(op="call_function", target=store)]
    places: dict[Node, int] = {n: i for i, n in enumerate(graph.find_nodes(op="placeholder"))}
    slots = [places[n.args[0]] for n in stores]  # type: ignore[index]
    values = [n.args[1] for n in stores]
    for node in stores:
        graph.erase_node(node)
    graph.output((*output, *values))  # type: ignore[misc]
    return GraphModule(stage.graph, graph, class_name=type(stage.graph).__name__), slots
