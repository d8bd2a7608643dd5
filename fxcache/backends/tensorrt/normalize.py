"""Write a functional ATen graph in operators that torch-tensorrt's converters take, of the same values."""

from __future__ import annotations

import operator
import sys
from typing import Any

import torch
from torch.fx import GraphModule, Node

# Memory whose content nobody reads has no converter; zeros have.
UNSET = {
    torch.ops.aten.empty_like.default: torch.ops.aten.zeros_like.default,
    torch.ops.aten.new_empty.default: torch.ops.aten.new_zeros.default,
    torch.ops.aten.empty.memory_format: torch.ops.aten.zeros.default,
}


SQUEEZES = (torch.ops.aten.squeeze.dim, torch.ops.aten.squeeze.dims)


def _idle(node: Node) -> bool:
    """A copy of an input, or what has no converter for dynamic sizes and changes nothing here: a squeeze of
    sizes that are not 1, contiguous strides for what is contiguous."""
    if node.target is torch.ops.aten.clone.default:
        return bool(node.args[0].op == "placeholder")  # type: ignore[union-attr]
    if node.target is torch.ops.aten.as_strided.default:
        before, after = node.args[0].meta["val"], node.meta["val"]  # type: ignore[union-attr]
        same = before.shape == after.shape and before.storage_offset() == after.storage_offset() == 0
        return bool(same and before.is_contiguous() and after.is_contiguous())
    return node.target in SQUEEZES and node.meta["val"].dim() == node.args[0].meta["val"].dim()  # type: ignore[union-attr]


def normalize(graph: GraphModule) -> None:
    """Drop checks of dtypes and what does nothing (nothing is written any more); set unset memory; slice
    where a split is along an open size; scatter up to where the tensor ends. In place."""
    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.graph.erase_node(node)
        elif _idle(node):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif node.target in UNSET:
            if node.target is torch.ops.aten.empty.memory_format:
                node.kwargs = {k: v for k, v in node.kwargs.items() if k != "memory_format"}
            node.target = UNSET[node.target]
        elif node.target is torch.ops.aten.split_with_sizes.default and _along_open(node):
            _slice_instead(graph, node)
        elif node.target is torch.ops.aten.slice_scatter.default:
            _end_within(node)
    graph.graph.eliminate_dead_code()


def _along_open(split: Node) -> bool:
    source: Any = split.args[0]
    return isinstance(source.meta["val"].shape[_dimension(split)], torch.SymInt)


def _dimension(split: Node) -> int:
    dim: Any = split.args[2] if len(split.args) > 2 else split.kwargs.get("dim", 0)
    return int(dim)


def _slice_instead(graph: GraphModule, split: Node) -> None:
    """A split's converter builds no network for an open size, that of a slice does."""
    sizes: Any = split.args[1]
    starts: list[Any] = [0]
    with graph.graph.inserting_before(split):
        for size in sizes[:-1]:
            starts.append(_sum(graph, starts[-1], size))
    ends = [*starts[1:], sys.maxsize]
    for item in list(split.users):
        place: Any = item.args[1]
        with graph.graph.inserting_before(item):
            arguments = (split.args[0], _dimension(split), starts[place], ends[place])
            part = graph.graph.call_function(torch.ops.aten.slice.Tensor, arguments)
        part.meta = dict(item.meta)
        item.replace_all_uses_with(part)
        graph.graph.erase_node(item)
    graph.graph.erase_node(split)


def _end_within(scatter: Node) -> None:
    """`x[::2] = y` ends at the largest number there is, up to which torch-tensorrt 2.14 would count."""
    if len(scatter.args) > 4:
        source, part, dim, start, end, *step = scatter.args
        size = source.meta["val"].shape[dim]  # type: ignore[union-attr, index]
        if isinstance(end, int) and isinstance(size, int) and end > size:
            scatter.args = (source, part, dim, start, size, *step)


def _sum(graph: GraphModule, one: Any, other: Any) -> Any:
    if not isinstance(one, Node) and not isinstance(other, Node):
        return one + other
    if one == 0:
        return other
    total = graph.graph.call_function(operator.add, (one, other))
    total.meta["val"] = sum(n.meta["val"] if isinstance(n, Node) else n for n in (one, other))
    return total


def is_number(node: Node) -> bool:
    """Sizes and what is computed from them: every piece that needs them makes them."""
    value = node.meta.get("val")
    return node.op == "call_function" and isinstance(
        value, (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)
    )
