"""Hand complex operands of conditionals over as pairs of real numbers.

TorchInductor lowers no conditional that is given complex tensors and whose branches write: it leaves it in
its functional form, and fails. Operands that a program names are pairs already (`ops/cond.py`); constants,
weights and buffers of what a branch calls become operands only when a compiler lifts them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

aten = torch.ops.aten


def give_reals(graph: GraphModule, described: str) -> None:
    """Rewrite the conditionals of a traced graph, and their branches, in place.

    described: under which name its nodes hold what their value is like: "val" or, in a graph of Dynamo's,
    "example_value".
    """
    changed = False
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.higher_order.cond):
        predicate, *branches, operands = node.args
        places = [i for i, o in enumerate(operands) if _is_complex(o, described)]
        if not places:
            continue
        given = list(operands)
        with graph.graph.inserting_before(node):
            for i in places:
                given[i] = graph.graph.call_function(aten.view_as_real.default, (operands[i],))
                given[i].meta[described] = aten.view_as_real.default(operands[i].meta[described])
        node.args = (predicate, *branches, tuple(given))
        for branch in branches:
            _take_pairs(graph.get_submodule(str(branch.target)), places, described)
        changed = True
    if changed:
        graph.recompile()


def _take_pairs(branch: Any, places: list[int], described: str) -> None:
    inputs = branch.graph.find_nodes(op="placeholder")
    for i in places:
        pair = inputs[i]
        with branch.graph.inserting_after(inputs[-1]):
            whole = branch.graph.call_function(aten.view_as_complex.default, (pair,))
        pair.replace_all_uses_with(whole, delete_user_cb=lambda user, whole=whole: user is not whole)
        whole.meta = pair.meta  # the branches' inputs may share theirs
        if described in whole.meta:
            pair.meta = {**whole.meta, described: aten.view_as_real.default(whole.meta[described])}
    branch.recompile()


def _is_complex(operand: Any, described: str) -> bool:
    value = operand.meta.get(described) if isinstance(operand, Node) else None
    return isinstance(value, torch.Tensor) and value.is_complex()
