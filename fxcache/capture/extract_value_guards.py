"""Split a trace in two: the forward's outputs, and the program that works out the values it read."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from ..environment.refused_trace import RefusedTrace
from ..ir.dataflow import ancestors
from ..ir.guards import ValueGuards
from .leaf_call import leaf_call
from .tracing import Trace


def separate_reads(traced: Trace, model: nn.Module) -> ValueGuards | None:
    """Leave the outputs alone in the graph of `traced`; give a guard for the values that were read.

    None where nothing was read that a later call could change. Raises `RefusedTrace` where such a
    value comes out of a module: checking it would mean running the module twice.
    """
    graph = traced.graph.graph
    output = graph.output_node()
    results = list(output.args[0])  # type: ignore[arg-type]
    count = len(results) - len(traced.reads)
    # Modules that the forward called need not be held by the model.
    own = {id(t): t for m in (model, *traced.code.called) for t in (*m.parameters(), *m.buffers())}
    kept: list[tuple[Node, Any]] = []
    for node, value in zip(results[count:], traced.reads, strict=True):
        needed = ancestors([node])
        for call in needed:
            if call.target is leaf_call:
                name = traced.calls[call.args[0]].name  # type: ignore[index]
                raise RefusedTrace(f"its Python code reads values that '{name}' computes")
        if any(n.op == "placeholder" for n in needed) or _attributes(traced.graph, needed, own):
            kept.append((node, value))
    guards = _guards(traced.graph, kept, own) if kept else None
    output.args = (results[:count],)
    graph.eliminate_dead_code()
    return guards


def _attributes(
    graph: GraphModule, needed: set[Node], own: dict[int, torch.Tensor]
) -> tuple[torch.Tensor, ...]:
    """The model's own tensors among `needed`."""
    found = (getattr(graph, str(n.target), None) for n in needed if n.op == "get_attr")
    return tuple(own[id(t)] for t in found if id(t) in own)


def _guards(graph: GraphModule, reads: list[tuple[Node, Any]], own: dict[int, torch.Tensor]) -> ValueGuards:
    needed = ancestors(node for node, _ in reads)
    program = Graph()
    copies: dict[Node, Node] = {}
    sources: list[int] = []
    for i, node in enumerate(graph.graph.find_nodes(op="placeholder")):
        copies[node] = program.node_copy(node)
        if node in needed:
            sources.append(i)
    for node in graph.graph.nodes:
        if node in needed and node.op != "placeholder":
            copies[node] = program.node_copy(node, lambda n: copies[n])
    program.output(tuple(copies[node] for node, _ in reads))
    module = GraphModule(graph, program, class_name="ValueGuards")
    return ValueGuards(
        module,
        tuple(value for _, value in reads),
        tuple(sources),
        _attributes(graph, needed, own),
        tuple(node.name for node, _ in reads),
    )
