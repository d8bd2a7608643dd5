"""Join the stages with one conditional per segment: the outer graph."""

from __future__ import annotations

import operator
from collections.abc import Collection

from torch import nn
from torch.fx import Graph, GraphModule, Node

from ..ir.keys import ValueKey
from ..ir.program import Middle, Program, Trunk
from ..ir.stage import Stage
from ..ops.cond import conditional, materialize
from ..torch_private import rename


def insert_conditional(program: Program) -> Program:
    """Finish every stage and build the outer graph over them.

    Takes complete branches. Ensures that every node is described; that the branches of a conditional take the
    same operands and return values alike in number, shape, dtype and device; that every state tensor is
    used, and every module's result.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.passes.insert_conditional import insert_conditional
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> unfinished = cached.graph.program.replace(stages={}, graph=None)
        >>> program = insert_conditional(unfinished)
        >>> [node.name for node in program.graph.graph.find_nodes(op="call_module")]
        ['front', 'back']
        >>> list(program.stages)
        ['front', 'skip', 'compute', 'back']
    """
    assert program.partition is not None
    root = program.capture.graph
    partition = program.partition.copy()
    trunks, middles = partition.trunks, partition.middles
    fakes = trunks[0].builder.fakes
    graph = Graph()
    values: dict[str, Node] = {}
    for node in root.graph.find_nodes(op="placeholder"):
        values[node.name] = graph.placeholder(node.name)
        values[node.name].meta = dict(node.meta)
    for tensor in program.state:
        values[tensor.name] = graph.placeholder(tensor.name)
        values[tensor.name].meta["val"] = fakes.state(tensor)
    stages: dict[str, Stage] = {}
    for index, trunk in enumerate(trunks):
        stage = trunk.builder.finish(root)
        stages[stage.name] = stage
        _call(graph, stage, values)
        if index == len(middles):
            break
        middle = middles[index]
        if not middle.outputs:
            _give_something(middle, trunk, index)
        operands = {**middle.skip.inputs, **middle.compute.inputs}
        skip = middle.skip.finish(root, operands)
        compute = middle.compute.finish(root, operands)
        stages[skip.name], stages[compute.name] = skip, compute
        _branch(graph, values, ValueKey("hit", index).name, skip, compute, {t.name for t in program.state})
    graph.output(tuple(values[name] for name in stages["back"].outputs))
    holder = nn.Module()
    for stage in stages.values():
        holder.add_module(stage.name, stage.graph)
    model = type(program.capture.model).__name__
    outer = GraphModule(holder, graph, class_name=f"Cached{model}")
    outer.graph.lint()
    return program.replace(stages=stages, graph=outer)


def _give_something(middle: Middle, trunk: Trunk, index: int) -> None:
    """A middle with no blocks gives nothing, but the conditional operator wants a result."""
    name = ValueKey("record", index).name
    for builder in (middle.skip, middle.compute):
        record = builder.input(name, trunk.builder.outputs[name])
        builder.outputs[ValueKey("done", index).name] = builder.call(materialize, record)


def _call(graph: Graph, stage: Stage, values: dict[str, Node]) -> None:
    call = graph.call_module(stage.name, tuple(values[name] for name in stage.inputs))
    _unpack(graph, call, stage, values)


def _branch(
    graph: Graph, values: dict[str, Node], hit: str, skip: Stage, compute: Stage, state: Collection[str]
) -> None:
    branches = [graph.get_attr(stage.name) for stage in (skip, compute)]
    operands = tuple(values[name] for name in skip.inputs)
    intermediate_operands = tuple(i for i, operand in enumerate(operands) if operand.op != "placeholder")
    state_operands = tuple(i for i, operand in enumerate(operands) if operand.name in state)
    positions = (intermediate_operands, state_operands)
    call = graph.call_function(conditional, (values[hit], *branches, operands, *positions))
    _unpack(graph, call, compute, values)


def _unpack(graph: Graph, call: Node, stage: Stage, values: dict[str, Node]) -> None:
    """Name what `call` returns, which is what `stage` does."""
    call.meta["val"] = tuple(stage.returned())
    for i, name in enumerate(stage.outputs):
        item = graph.call_function(operator.getitem, (call, i))
        rename(item, name)
        item.meta["val"] = call.meta["val"][i]
        values[name] = item
