"""Small questions about a graph that several passes ask."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import sympy
import torch
from torch.fx import GraphModule, Node


def output_values(call: Node) -> dict[Any, Node]:
    """The tensors that a module call returns, by their place in its result.

    The call itself, or what the graph takes out of its structured result.
    """
    if isinstance(call.meta.get("val"), torch.Tensor):
        return {(): call}
    found: dict[Any, Node] = {}
    stack: list[tuple[tuple[Any, ...], Node]] = [((u.args[1],), u) for u in call.users if takes_out(u)]
    while stack:
        path, node = stack.pop()
        if isinstance(node.meta.get("val"), torch.Tensor):
            found[path] = node
        stack.extend(((*path, u.args[1]), u) for u in node.users if takes_out(u))
    return dict(sorted(found.items(), key=lambda item: str(item[0])))


def takes_out(node: Node) -> bool:
    """Whether `node` picks an item out of a module's structured result."""
    if node.op != "call_function" or node.target not in (operator.getitem, getattr):
        return False
    source = node.args[0]
    while isinstance(source, Node) and source.target in (operator.getitem, getattr):
        source = source.args[0]
    return isinstance(source, Node) and source.op == "call_module"


def argument_values(call: Node) -> list[tuple[Any, Node]]:
    """(path, node) for each tensor argument of a call; a path names the same place in every call."""
    found: list[tuple[Any, Node]] = []

    def visit(path: tuple[Any, ...], value: Any) -> None:
        if isinstance(value, Node):
            if isinstance(value.meta.get("val"), torch.Tensor):
                found.append((path, value))
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                visit((*path, i), item)
        elif isinstance(value, dict):
            for key, item in value.items():
                visit((*path, key), item)

    visit((), call.args)
    visit((), call.kwargs)
    return found


def ancestors(starts: Iterable[Node], stop: Callable[[Node], bool] = lambda n: False) -> set[Node]:
    """Nodes that `starts` depend on, themselves included; a node where `stop` holds is not looked behind."""
    found: set[Node] = set()
    stack = list(starts)
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found.add(node)
        if not stop(node):
            stack.extend(node.all_input_nodes)
    return found


def same_shape(a: Node, b: Node) -> bool:
    """Whether two values have equal shape and dtype at the sizes that were traced.

    Where symbolic sizes are equal only there, `equalities` gives what a caller must then assume.
    """
    x, y = a.meta.get("val"), b.meta.get("val")
    if not isinstance(x, torch.Tensor) or not isinstance(y, torch.Tensor):
        return False
    return x.dtype == y.dtype and same_sizes(x, y)


def same_sizes(x: torch.Tensor, y: torch.Tensor) -> bool:
    """Whether two traced tensors have equal shapes at the sizes that were traced."""
    return x.dim() == y.dim() and all(_equal(s, t) for s, t in zip(x.shape, y.shape, strict=True))


def same_layout(x: object, y: object) -> bool:
    """Whether two traced tensors have equal shapes and strides at the sizes that were traced.

    Of what is no tensor, whether it is one thing.
    """
    if not isinstance(x, torch.Tensor) or not isinstance(y, torch.Tensor):
        return True
    return x is y or (same_sizes(x, y) and all(map(_equal, x.stride(), y.stride())))


def equalities(a: Node, b: Node) -> list[sympy.Expr]:
    """Conditions, beyond what is always true, under which the shapes of two values are equal."""
    sizes = zip(a.meta["val"].shape, b.meta["val"].shape, strict=True)
    pairs = ((_expr(s), _expr(t)) for s, t in sizes)
    return [sympy.Eq(s, t, evaluate=False) for s, t in pairs if sympy.simplify(s - t) != 0]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.SymInt) or isinstance(b, torch.SymInt):
        if bool(_expr(a) - _expr(b) == 0):
            return True
        hints = [s.node.hint if isinstance(s, torch.SymInt) else s for s in (a, b)]
        return None not in hints and bool(hints[0] == hints[1])
    return bool(a == b)


def _expr(size: Any) -> sympy.Expr:
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(size)


def numel(value: Node) -> int:
    """Elements of a value, at the sizes that were traced; 0 where they depend on data."""
    tensor = value.meta.get("val")
    if not isinstance(tensor, torch.Tensor):
        return 0
    total = 1
    for size in tensor.shape:
        hint = size.node.hint if isinstance(size, torch.SymInt) else size
        total *= int(hint) if hint is not None else 0
    return total


def in_order(nodes: Iterable[Node], graph: torch.fx.Graph) -> Iterator[Node]:
    """`nodes` in the graph's execution order."""
    chosen = set(nodes)
    return (n for n in graph.nodes if n in chosen)


def order_by_dependency(graph: torch.fx.Graph) -> None:
    """Let every node of a graph come after those that it needs; otherwise their order stays."""
    placed: set[Node] = set()
    ordered: list[Node] = []
    for node in graph.nodes:
        pending = [node]
        while pending:  # not by recursion: a graph may be thousands of operators deep
            current = pending[-1]
            missing = [n for n in current.all_input_nodes if n not in placed]
            if current in placed or not missing:
                pending.pop()
                if current not in placed:
                    placed.add(current)
                    ordered.append(current)
            else:
                pending.extend(reversed(missing))
    for before, node in itertools.pairwise(ordered):
        if before.next is not node:
            before.append(node)


def attribute_of(graph: GraphModule, node: Node) -> Any:
    """What a `get_attr` node of `graph` reads."""
    return operator.attrgetter(str(node.target))(graph)
