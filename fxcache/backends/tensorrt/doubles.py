"""Keep float64 out of the engine: TensorRT has none.

The clock counts in float64, and models compute rotary tables in it. Truncating to float32 would change
numbers, and leaving the choice to the partitioner would cut a stage into several engines. Nearly always
such arithmetic depends on a stage's inputs alone, or nothing depends on it: then it runs in PyTorch
before, or after, the one engine. What lies in between stays where it is and is reported.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.fx import Graph, GraphModule, Node

Place = Literal["before", "engine", "after"]
PLACES: tuple[Place, ...] = ("before", "engine", "after")


@dataclass(frozen=True)
class Piece:
    """Part of a stage: values of `inputs` in, values of `outputs` out, both by name."""

    place: Place | Literal["effects"]
    graph: GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def operators(self) -> list[str]:
        """The operators that it runs, in order."""
        return operators_of(self.graph)


def operators_of(graph: GraphModule) -> list[str]:
    """Names of the operators of `graph`, without item access and sizes."""
    return [
        str(n.target) if isinstance(n.target, torch._ops.OpOverload) else getattr(n.target, "__name__", str(n.target))
        for n in graph.graph.nodes
        if n.op == "call_function" and n.target is not operator.getitem and not is_number(n)
    ]


def split_doubles(
    graph: GraphModule, inputs: tuple[str, ...], outputs: tuple[str, ...], prefix: str
) -> tuple[list[Piece], tuple[str, ...]]:
    """Split a functional ATen graph into before, engine and after; empty pieces are left out.

    Args:
        graph: nodes carry `meta["val"]`.
        inputs, outputs: names of its placeholders and of its results.
        prefix: for the names of values that pass from one piece to another.

    Returns:
        The pieces, and under which name each of `outputs` is to be found.
    """
    _drop_clones(graph)
    places = _places(graph)
    nodes = list(graph.graph.nodes)
    names = {n: f"{prefix}.{n.name}" for n in nodes}
    placeholders = [n for n in nodes if n.op == "placeholder"]
    names.update(zip(placeholders, inputs, strict=True))
    results: tuple[Node, ...] = tuple(graph.graph.output_node().args[0])  # type: ignore[arg-type]
    pieces = [_piece(graph, place, places, names, results) for place in PLACES]
    found = [p for p in pieces if p is not None]
    return found, tuple(names[r] for r in results)


def _drop_clones(graph: GraphModule) -> None:
    """Copies only matter where something is written, and nothing is any more."""
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.aten.clone.default):
        node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()


def is_number(node: Node) -> bool:
    """Sizes and what is computed from them: every piece that needs them makes them."""
    value = node.meta.get("val")
    return node.op == "call_function" and isinstance(
        value, (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)
    )


def _free(node: Node) -> bool:
    return node.op == "get_attr" or is_number(node)


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    items = value if isinstance(value, (tuple, list)) else (value,)
    return (t for t in items if isinstance(t, torch.Tensor))


def _double(node: Node) -> bool:
    around = (node, *node.all_input_nodes)
    return any(t.dtype in (torch.float64, torch.complex128) for n in around for t in _tensors(n.meta.get("val")))


def _places(graph: GraphModule) -> dict[Node, Place]:
    places: dict[Node, Place] = {}
    for node in graph.graph.nodes:
        if node.op != "call_function" or _free(node):
            continue
        parents = [n for n in node.all_input_nodes if not is_number(n)]
        above = {places.get(n) for n in parents if not _free(n)}
        if above and above <= {"before"} and not any(n.op == "get_attr" for n in parents):
            places[node] = "before"  # also what only goes on from there: casts, views
        elif _double(node) and not above & {"engine", "after"}:
            places[node] = "before"
        else:
            places[node] = "engine"
    for node in reversed(graph.graph.nodes):
        behind = all(u.op == "output" or places.get(u) == "after" for u in node.users)
        if places.get(node) == "engine" and behind and _double(node):
            places[node] = "after"
    return places


def _piece(
    source: GraphModule,
    place: Place,
    places: dict[Node, Place],
    names: dict[Node, str],
    results: tuple[Node, ...],
) -> Piece | None:
    inside = [n for n in source.graph.nodes if places.get(n) == place]
    if place == "before":  # constants that are results need a maker
        inside = [n for n in source.graph.nodes if n in inside or (n.op == "get_attr" and n in results)]
    if not inside:
        return None
    graph, values, inputs = Graph(), dict[Node, Node](), list[Node]()

    def value(node: Node) -> Node:
        if node not in values:
            if node in inside or _free(node):
                values[node] = graph.node_copy(node, value)
            else:
                inputs.append(node)
                with graph.inserting_before(next(iter(graph.nodes), None)):
                    values[node] = graph.placeholder(node.name)
                values[node].meta = dict(node.meta)
        return values[node]

    for node in inside:
        value(node)
    given = [n for n in inside if n in results or any(places.get(u) not in (None, place) for u in n.users)]
    outputs = [n for n in given if any(True for _ in _tensors(n.meta.get("val"))) and not _structured(n)]
    graph.output(tuple(values[n] for n in outputs))
    ordered = [values[n] for n in reversed(inputs)]  # each was put in front of the last
    assert [n for n in graph.nodes if n.op == "placeholder"] == ordered
    module = GraphModule(source, graph, class_name=place.title())
    return Piece(place, module, tuple(names[n] for n in reversed(inputs)), tuple(names[n] for n in outputs))


def _structured(node: Node) -> bool:
    return isinstance(node.meta.get("val"), (tuple, list))
