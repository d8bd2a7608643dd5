"""Bring the conditionals that TorchInductor compiles into a form that it can lower.

Branches that update state are functionalized by torch, which asks composite operators (`aten.linear`)
for concrete sizes: every size would be fixed, and another one compile the graph again. And it stumbles over
a higher-order operator in a branch (flexible attention). So the branches are flattened to ATen operators
first, after Dynamo, whose guards on the model's modules stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from ..ir.real_operands import give_reals
from ..torch_private import HigherOrderOperator, TracingContext, inductor, inductor_mode, make_fx


def inductor_conditionals(
    graph: GraphModule,
    inputs: Sequence[Any],
    *,
    mode: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """A backend of `torch.compile`: TorchInductor, conditionals in a form that it can lower.

    mode, options: TorchInductor's, as `torch.compile` hands them on.
    """
    give_reals(graph, "example_value")
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.higher_order.cond):
        _, *branches, operands = node.args
        values = [o.meta["example_value"] if isinstance(o, Node) else o for o in operands]
        modules = {branch.target: graph.get_submodule(branch.target) for branch in branches}
        if any(_is_open(v) for v in values) or any(_nests(m) for m in modules.values()):
            for name, module in modules.items():
                setattr(graph, name, _flattened(module, values))
    patches = {**(inductor_mode(mode) if mode else {}), **(options or {})}
    return inductor(graph, inputs, patches)


def _is_open(value: Any) -> bool:
    sizes = value.shape if isinstance(value, torch.Tensor) else (value,)
    return any(isinstance(s, torch.SymInt) for s in sizes)


def _nests(branch: Any) -> bool:
    return any(isinstance(n.target, HigherOrderOperator) for n in branch.graph.nodes)


def _flattened(branch: torch.nn.Module, values: Sequence[Any]) -> GraphModule:
    mode = TracingContext.get().fake_mode  # not that of the values: Dynamo gives backends a fresh one
    with mode, torch.no_grad():  # type: ignore[union-attr]
        fresh = [_like(v) for v in values]
        return make_fx(branch, tracing_mode="real", _allow_non_fake_inputs=True)(*fresh)


def _like(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=value.device)
