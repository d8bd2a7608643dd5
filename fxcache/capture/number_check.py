"""Check that a graph with numbers as inputs is, at these numbers, the graph with the numbers as constants.

Python code may look at a number in ways that no symbol can answer for (`type(number) is float`). Then the two
traces differ, and the number must stay a constant.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from ..environment.refused_trace import RefusedTrace
from ..environment.structure import Structure
from ..ir.dataflow import attribute_of
from ..ir.guards import same_values
from .leaf_adapter import LeafAdapter
from .operator_schemas import draws

# What is known of two graphs: the values of nodes in one, in the other, and which nodes are alike.
Found = tuple[Mapping[Node, Any], Mapping[Node, Any], Mapping[Node, Node]]
SLICE = ("start", "stop", "step")


def refuse_unlike(
    model: nn.Module, graph: GraphModule, plain: GraphModule, numbers: Mapping[int, Any]
) -> None:
    """Raises `RefusedTrace` where two graphs of `model` differ in more than numbers for constants.

    numbers: values of the flat inputs of `graph` that are numbers; `plain` has no such inputs.
    """
    own = frozenset(map(id, (*model.parameters(), *model.buffers())))
    known, rest = _settled(graph, numbers, own)
    constants, others = _settled(plain, {}, own)
    pairs: dict[Node, Node] = {}
    for node, other in itertools.zip_longest(rest, others):
        if node is None or other is None:
            raise RefusedTrace("its Python code does more or less with a symbol for a number")
        if not _alike(node, graph, other, plain, (known, constants, pairs)):
            raise RefusedTrace(f"its Python code does otherwise with a symbol for a number ('{node.name}')")
        pairs[node] = other


def _settled(
    graph: GraphModule, numbers: Mapping[int, Any], own: frozenset[int]
) -> tuple[dict[Node, Any], list[Node]]:
    """The values of the nodes that need numbers and constants alone, and the other nodes."""
    known: dict[Node, Any] = {}
    rest: list[Node] = []
    places = itertools.count()
    for node in graph.graph.nodes:
        place = next(places) if node.op == "placeholder" else -1
        if place in numbers:
            known[node] = torch.tensor(numbers[place], dtype=node.meta["val"].dtype)
        elif node.op == "get_attr" and _is_constant(attribute_of(graph, node), own):
            known[node] = attribute_of(graph, node)
        elif node.op == "call_function" and _computable(node, known):
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        else:
            rest.append(node)
    return known, rest


def _computable(node: Node, known: Mapping[Node, Any]) -> bool:
    return all(n in known for n in node.all_input_nodes) and not draws(node.target, node.args, node.kwargs)


def _is_constant(value: Any, own: frozenset[int]) -> bool:
    return isinstance(value, torch.Tensor) and id(value) not in own


def _alike(
    a: Node,
    graph: GraphModule,
    b: Node,
    plain: GraphModule,
    found: Found,
) -> bool:
    if a.op != b.op or (a.op != "placeholder" and a.target != b.target):
        return False
    if a.op == "call_module" and not _same_module(graph, plain, str(a.target)):
        return False
    if a.op == "get_attr" and not _same_value(attribute_of(graph, a), attribute_of(plain, b)):
        return False
    return _same((a.args, a.kwargs), (b.args, b.kwargs), found)


def _same(a: Any, b: Any, found: Found) -> bool:
    known, constants, pairs = found
    if isinstance(a, Node):
        if a in known:
            return _same_value(known[a], constants.get(b, b) if isinstance(b, Node) else b)
        return pairs.get(a) is b
    if isinstance(a, (tuple, list)):
        alike = isinstance(b, (tuple, list)) and len(a) == len(b)
        return alike and all(_same(x, y, found) for x, y in zip(a, b, strict=True))
    if isinstance(a, Mapping):
        alike = isinstance(b, Mapping) and a.keys() == b.keys()
        return alike and all(_same(v, b[k], found) for k, v in a.items())
    if isinstance(a, slice):
        alike = isinstance(b, slice)
        return alike and all(_same(getattr(a, n), getattr(b, n), found) for n in SLICE)
    if isinstance(a, Structure):
        return isinstance(b, Structure) and a.spec == b.spec and _same(a.constants, b.constants, found)
    return _same_value(a, b)


def _same_value(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if isinstance(a, (bool, int, float, torch.Tensor)):
        return type(a) is type(b) and same_values((a,), (b,))
    return type(a) is type(b) and bool(a == b)


def _same_module(graph: GraphModule, plain: GraphModule, name: str) -> bool:
    a, b = graph.get_submodule(name), plain.get_submodule(name)
    return a is b or (isinstance(a, LeafAdapter) and a.calls_like(b))
