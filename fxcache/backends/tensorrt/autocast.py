"""Let a float32 model multiply matrices in lower precision.

Engines are strongly typed: TensorRT lowers no precision by itself, the casts have to be in the graph.
Only operators that gain are cast (products, convolutions, attention); norms, sums and everything that
passes between stages stay float32. (torch-tensorrt's own autocast casts boolean and integer inputs,
too, and then fails on `where`.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

aten = torch.ops.aten
PRODUCTS = frozenset(
    {
        aten.linear.default,
        aten.matmul.default,
        aten.mm.default,
        aten.bmm.default,
        aten.addmm.default,
        aten.baddbmm.default,
        aten.conv1d.default,
        aten.conv2d.default,
        aten.conv2d.padding,
        aten.conv3d.default,
        aten.convolution.default,
        aten.scaled_dot_product_attention.default,
    }
)


def cast_products(graph: GraphModule, dtype: torch.dtype) -> GraphModule:
    """Cast the float32 inputs of every product to `dtype`, and its result back. In place."""
    casts: dict[Node, Node] = {}
    for node in list(graph.graph.nodes):
        if node.op != "call_function" or node.target not in PRODUCTS:
            continue
        if node.meta["val"].dtype != torch.float32:
            continue
        with graph.graph.inserting_before(node):
            node.args = tuple(_cast(graph, a, dtype, casts) for a in node.args)
            node.kwargs = {k: _cast(graph, a, dtype, casts) for k, a in node.kwargs.items()}
        with graph.graph.inserting_after(node):
            back = _to(graph, node, torch.float32)
        node.replace_all_uses_with(back, delete_user_cb=lambda user, back=back: user is not back)
    graph.graph.lint()
    graph.recompile()
    return graph


def _cast(graph: GraphModule, argument: Any, dtype: torch.dtype, casts: dict[Node, Node]) -> Any:
    if not isinstance(argument, Node):
        return argument
    value = argument.meta.get("val")
    single = value.dtype == torch.float32 if isinstance(value, torch.Tensor) else argument.op == "get_attr"
    if not single:
        return argument
    if argument not in casts:
        casts[argument] = _to(graph, argument, dtype)
    return casts[argument]


def _to(graph: GraphModule, node: Node, dtype: torch.dtype) -> Node:
    cast = graph.graph.call_function(aten._to_copy.default, (node,), {"dtype": dtype})
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        cast.meta["val"] = value.to(dtype)
    return cast
