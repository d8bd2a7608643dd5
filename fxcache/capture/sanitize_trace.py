"""Straighten a trace: what the graph cannot hold is refused, what means nothing in it is dropped."""

from __future__ import annotations

import torch
from torch.fx import Graph, GraphModule, Node

from ..environment.refused_trace import RefusedTrace
from ..torch_private import OpOverload
from .leaf_call import leaf_call
from .operator_schemas import draws, unordered
from .record_leaves import LeafRecord

# Checks on sizes that depend on data; the operators that use those sizes check them as well.
ASSERTIONS = (
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten._assert_async.msg,
    torch.ops.aten._assert_async.default,
    torch.ops.aten._assert_tensor_metadata.default,
    torch.ops.aten.sym_constrain_range_for_size.default,
    torch.ops.aten.sym_constrain_range.default,
)
RANDOM = "random"  # key of `Node.meta`: the place of a call in the order in which random numbers are taken


def drop_marks(graph: Graph) -> None:
    """Take out what only profilers look at: `record_function`."""
    for node in reversed(list(graph.nodes)):
        if isinstance(node.target, OpOverload) and node.target.namespace == "profiler":
            for user in list(node.users):
                graph.erase_node(user)
            graph.erase_node(node)


def written_inputs(graph: Graph, outputs: int) -> tuple[tuple[int, int], ...]:
    """Make writes to the graph's inputs further outputs, behind the first `outputs`.

    Returns (input, output) pairs: what is to be copied where after each run. A functional trace has these
    writes at its end. Raises `RefusedTrace` for a write to anything else.
    """
    placeholders = graph.find_nodes(op="placeholder")
    found: dict[Node, Node] = {}
    for node in list(graph.nodes):
        if not is_write(node):
            continue
        target = node.args[0]
        if node.target is not torch.ops.aten.copy_.default or target not in placeholders or node.users:
            raise RefusedTrace(f"its forward writes to '{target}' in place ({node.target})")
        found[target] = node.args[1]
        graph.erase_node(node)
    results = list(graph.output_node().args[0])  # type: ignore[arg-type]
    results[outputs:outputs] = found.values()
    graph.output_node().args = (results,)
    return tuple((placeholders.index(node), outputs + i) for i, node in enumerate(found))


def is_write(node: Node) -> bool:
    """Whether a node writes to a tensor in place."""
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def drop_copies(graph: Graph) -> None:
    """What a leaf wrote is its operand's new value as it is: a copy of it onto the old adds nothing."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten.copy.default):
        old, new = (n.meta["val"] if isinstance(n, Node) else None for n in node.args[:2])
        if isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor) and _alike(old, new):
            node.replace_all_uses_with(node.args[1])  # type: ignore[arg-type]
            graph.erase_node(node)


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.dtype != b.dtype or a.device != b.device or a.dim() != b.dim():
        return False
    pairs = zip((*a.shape, *a.stride()), (*b.shape, *b.stride()), strict=True)
    return all(_number(x) == _number(y) for x, y in pairs)


def _number(size: object) -> object:
    return size.node.expr if isinstance(size, torch.SymInt) else size


def refuse_effects(graph: Graph) -> None:
    """Raise `RefusedTrace` for an operator whose order or effects a graph of values cannot tell."""
    for node in graph.nodes:
        why = unordered(node.target) if node.target not in ASSERTIONS else None
        if node.op == "call_function" and why is not None:
            raise RefusedTrace(f"its forward runs {node.target}, which a graph cannot hold: {why}")


def mark_random(module: GraphModule, calls: list[LeafRecord]) -> None:
    """Number the calls that take random numbers, in order."""
    count = 0
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        if node.target is leaf_call:
            outcome = calls[node.args[0]].outcome
            drew = outcome is not None and outcome.drew
        else:
            drew = draws(node.target, node.args, node.kwargs)
        if drew:
            node.meta[RANDOM] = count
            count += 1
