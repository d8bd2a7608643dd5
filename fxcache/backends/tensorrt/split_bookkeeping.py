"""Keep out of the engine what it cannot or need not do: float64, and the cache's own bookkeeping.

Models compute rotary tables in float64, which TensorRT has not. Truncating to float32 would change numbers,
and leaving the choice to the partitioner would cut a stage into several engines. Nearly always such
arithmetic depends on a stage's inputs alone, or nothing depends on it: then it runs in PyTorch before, or
after, the one engine. What lies in between stays where it is and is reported. What a step makes of the clock,
the settings and the plans (whole numbers, indices, a handful of weights) runs before the engine likewise, as
no engine gains by it.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.fx import Graph, GraphModule, Node

from ...ir.dataflow import ancestors
from ...ir.keys import BOOKKEEPING
from .normalize import is_number, normalize

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
    """Names of the operators of `graph`, in order."""
    return [name for node in graph.graph.nodes if (name := operator_name(node)) is not None]


def operator_name(node: Node) -> str | None:
    """The operator of a node; None for what computes nothing on tensors: item access, sizes, submodules."""
    if node.op != "call_function" or node.target is operator.getitem or is_number(node):
        return None
    return getattr(node.target, "__name__", None) or str(node.target)


def split_bookkeeping(
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
    normalize(graph)
    nodes = list(graph.graph.nodes)
    names = {n: f"{prefix}.{n.name}" for n in nodes}
    placeholders = [n for n in nodes if n.op == "placeholder"]
    names.update(zip(placeholders, inputs, strict=True))
    places = _places(graph, _bookkeeping(nodes, names))
    results: tuple[Node, ...] = tuple(graph.graph.output_node().args[0])  # type: ignore[arg-type]
    pieces = [_piece(graph, place, places, names, results) for place in PLACES]
    found = [p for p in pieces if p is not None]
    return found, tuple(names[r] for r in results)


def _free(node: Node) -> bool:
    return node.op == "get_attr" or is_number(node)


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    items = value if isinstance(value, (tuple, list)) else (value,)
    return (t for t in items if isinstance(t, torch.Tensor))


def in_double(node: Node) -> bool:
    """Whether a node takes or returns float64."""
    around = (node, *node.all_input_nodes)
    return any(
        t.dtype in (torch.float64, torch.complex128) for n in around for t in _tensors(n.meta.get("val"))
    )


def _bookkeeping(nodes: Iterable[Node], names: Mapping[Node, str]) -> set[Node]:
    """What is made of the cache's small state, and of nothing else but single numbers."""
    found = {n for n in nodes if n.op == "placeholder" and BOOKKEEPING.fullmatch(names[n])}
    for node in nodes:
        parents = [n for n in node.all_input_nodes if not _free(n)]
        if found.isdisjoint(parents) or node.op != "call_function":
            continue
        if all(n in found or all(t.dim() == 0 for t in _tensors(n.meta.get("val"))) for n in parents):
            found.add(node)
    return found


def _places(graph: GraphModule, bookkeeping: Collection[Node]) -> dict[Node, Place]:
    calls = [n for n in graph.graph.nodes if n.op == "call_function" and not _free(n)]
    before = _before(graph, calls, bookkeeping)
    places: dict[Node, Place] = {n: "before" if n in before else "engine" for n in calls}
    for node in reversed(calls):
        behind = all(u.op == "output" or places.get(u) == "after" for u in node.users)
        if places[node] == "engine" and behind and in_double(node) and node.target is not operator.getitem:
            places[node] = "after"
    return places


def _before(graph: GraphModule, calls: list[Node], bookkeeping: Collection[Node]) -> set[Node]:
    """Bookkeeping and float64 that no weight enters, what it needs, and what needs nothing else (views)."""
    weighed: set[Node] = set()
    before: set[Node] = set()
    computing = set(calls)
    for node in calls:
        parents = [n for n in node.all_input_nodes if not is_number(n)]
        if any(n in weighed or _weight(graph, n) for n in parents):
            weighed.add(node)
        elif in_double(node) or node in bookkeeping:
            before |= {node, *ancestors([node], stop=before.__contains__)} & computing
        elif parents and all(n in before for n in parents):
            before.add(node)
    return before


def _weight(graph: GraphModule, node: Node) -> bool:
    if node.op != "get_attr":
        return False
    value: Any = graph
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return isinstance(value, torch.nn.Parameter)


def _piece(
    source: GraphModule,
    place: Place,
    places: dict[Node, Place],
    names: dict[Node, str],
    results: tuple[Node, ...],
) -> Piece | None:
    wanted = set(results)
    makes = place == "before"  # constants and sizes that are results need a maker
    inside = dict.fromkeys(
        n for n in source.graph.nodes if places.get(n) == place or (makes and n in wanted and _free(n))
    )
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
    given = [n for n in inside if n in wanted or any(places.get(u) not in (None, place) for u in n.users)]
    outputs = [n for n in given if n in wanted or not (_free(n) or _structured(n))]
    graph.output(tuple(values[n] for n in outputs))
    ordered = [values[n] for n in reversed(inputs)]  # each was put in front of the last
    assert [n for n in graph.nodes if n.op == "placeholder"] == ordered
    module = GraphModule(source, graph, class_name=place.title())
    return Piece(place, module, tuple(names[n] for n in reversed(inputs)), tuple(names[n] for n in outputs))


def _structured(node: Node) -> bool:
    return isinstance(node.meta.get("val"), (tuple, list))
