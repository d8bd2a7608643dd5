"""Let the host write the state that a stage computes, instead of the stage.

TorchInductor's C++ code generator may fuse the writes of what is cached with the layer norm that
follows the middle, and fails on that (`KeyError` in its outer loop fusion, torch 2.13).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.fx import Graph, GraphModule, Node

from ...ir.stage import Stage
from ...ops.cond import store
from ...ops.history import remember
from .dispatch import Runner

DEFERRED = (store, remember)  # each writes its first argument, of the others


@dataclass(frozen=True)
class _Store:
    """A write that the host does: `run(values[slot], *some of the results)`."""

    run: Callable[..., None]
    slot: int
    operands: int


def defer_stores(stage: Stage, compiled: Callable[[GraphModule], Runner]) -> Runner:
    """`stage`, compiled without its writes of values; the same are written once it ran."""
    graph, stores = _without_stores(stage)
    run = compiled(graph)
    if not stores:
        return run
    given = len(stage.outputs)

    def step(*values: Any) -> tuple[Any, ...]:
        results = run(*values)
        further = iter(results[given:])
        for one in stores:
            one.run(values[one.slot], *itertools.islice(further, one.operands))
        return results[:given]

    return step


def _without_stores(stage: Stage) -> tuple[GraphModule, list[_Store]]:
    """The graph with what it stored as further outputs, and where that goes among its inputs."""
    graph, copies = Graph(), dict[Node, Node]()
    output = graph.graph_copy(stage.graph.graph, copies)
    nodes = [copies[n] for n in stage.graph.graph.nodes if n.op == "call_function" and n.target in DEFERRED]
    places: dict[Any, int] = {n: i for i, n in enumerate(graph.find_nodes(op="placeholder"))}
    stores = [_Store(n.target, places[n.args[0]], len(n.args) - 1) for n in nodes]  # type: ignore[arg-type]
    values = [value for n in nodes for value in n.args[1:]]
    for node in nodes:
        graph.erase_node(node)
    graph.output((*output, *values))  # type: ignore[misc]
    return GraphModule(stage.graph, graph, class_name=type(stage.graph).__name__), stores
