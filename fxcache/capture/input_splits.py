"""Leaves whose hooks split their inputs among ranks, as diffusers' context parallelism does at a first block.

Such a block takes a whole stream and returns this rank's part of it. What its output continues is that part
of its input, which is put into the graph beside the call: for passes that ask what a block adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.fx import GraphModule, Node

from ..ir.dataflow import argument_values
from ..ir.fake_values import FakeValues
from ..ops.shard import own_part
from .forward_inputs import ForwardInputs
from .leaf_adapter import LeafAdapter, called_leaf


def add_own_parts(graph: GraphModule) -> None:
    """Before each call whose hooks split an input, the part of that which is this rank's."""
    fakes: FakeValues | None = None
    for call in list(graph.graph.find_nodes(op="call_module")):
        splits = dict(_splits(called_leaf(graph.get_submodule(str(call.target)))))
        for _, value in argument_values(call) if splits else ():
            split = splits.get(argument_name(graph, call, value) or "")
            if split is None or split.dimensions not in (None, value.meta["val"].dim()):
                continue
            fakes = fakes or FakeValues(graph)
            args = (value, split.dimension, split.size, split.rank)
            with graph.graph.inserting_before(call):
                part = graph.graph.call_function(own_part, args)
            part.meta["val"] = fakes.result(own_part, args, {})
    if fakes is not None:
        graph.recompile()


def argument_name(graph: GraphModule, call: Node, value: Node) -> str | None:
    """The name under which the leaf of a call takes a value; None where it cannot be told."""
    for name, given in call.kwargs.items():
        if given is value:
            return name
    for position, given in enumerate(call.args):
        if given is value:
            called = graph.get_submodule(str(call.target))
            place = called.argument(position) if isinstance(called, LeafAdapter) else position
            if isinstance(place, str):
                return place
            names = ForwardInputs.of(called_leaf(called)).names
            return names[place] if place < len(names) else f"argument {place}"
    return None


class _Split:
    """How an input is split: along which dimension, among how many, of which this is one."""

    def __init__(self, plan: Any, mesh: Any) -> None:
        self.dimension, self.dimensions = plan.split_dim, plan.expected_dims
        self.size, self.rank = mesh.size(), dist.get_rank(mesh.get_group())


def _splits(leaf: nn.Module) -> Iterator[tuple[str, _Split]]:
    """The inputs that diffusers' hooks on `leaf` split into equal parts, by name."""
    registry: Any = leaf.__dict__.get("_diffusers_hook")
    for hook in registry.hooks.values() if registry is not None else ():
        plans, parallel = getattr(hook, "metadata", None), getattr(hook, "parallel_config", None)
        mesh = getattr(parallel, "_flattened_mesh", None)
        if mesh is not None and isinstance(plans, dict):
            for name, plan in plans.items():
                if hasattr(plan, "split_dim") and not plan.split_output:
                    yield name, _Split(plan, mesh)
