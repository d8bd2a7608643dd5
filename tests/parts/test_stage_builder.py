"""`StageBuilder`: stages copy what is inside, take the rest as inputs, and know the blocks' identity."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from fxcache.ir.blocks import Block
from fxcache.ir.stage_builder import Identity, OpaqueValueError, StageBuilder, is_free


def chain(length: int = 3) -> tuple[GraphModule, dict[str, Node]]:
    """x → (+ 1) → block → (* 2) → block …, each block a `Linear`."""
    root = nn.Module()
    graph = Graph()
    value = graph.placeholder("x")
    found = {"x": value}
    for i in range(length):
        setattr(root, f"block{i}", nn.Linear(2, 2))
        value = found[f"glue{i}"] = graph.call_function(torch.add if i % 2 else torch.mul, (value, 2.0))
        value = found[f"block{i}"] = graph.call_module(f"block{i}", (value,))
    graph.output((value,))
    return GraphModule(root, graph), found


def block(nodes: dict[str, Node], index: int) -> Block:
    node = nodes[f"block{index}"]
    return Block(node, f"block{index}", "", nn.Linear, 6, {node: node.args[0]}, node)  # type: ignore[dict-item]


def run(builder: StageBuilder, module: GraphModule, *args: Any) -> Any:
    return builder.finish(module).graph(*args)


def test_a_stage_copies_what_is_inside_and_takes_the_rest() -> None:
    module, nodes = chain()
    builder = StageBuilder("middle", lambda n: n in (nodes["block1"], nodes["glue2"]))
    builder.outputs["out"] = builder.value(nodes["glue2"])
    assert builder.inputs == (nodes["glue1"].name,)
    stage = builder.finish(module)
    assert stage.inputs == (nodes["glue1"].name,) and stage.outputs == ("out",)
    x = torch.randn(1, 2)
    assert torch.equal(stage.graph(x)[0], module.block1(x) * 2.0)


def test_a_value_is_copied_once() -> None:
    _, nodes = chain()
    builder = StageBuilder("all", lambda n: n.op != "placeholder")
    assert builder.value(nodes["block2"]) is builder.value(nodes["block2"])
    calls = [n for n in builder.graph.nodes if n.op == "call_module"]
    assert [n.target for n in calls] == ["block0", "block1", "block2"]


def test_with_the_identity_blocks_vanish_and_glue_stays() -> None:
    module, nodes = chain()
    identity = Identity.on([block(nodes, 0), block(nodes, 1), block(nodes, 2)])
    builder = StageBuilder("skip", lambda n: n.op != "placeholder")
    builder.outputs["out"] = builder.value(nodes["block2"], identity)
    assert not builder.graph.find_nodes(op="call_module")
    x = torch.randn(1, 2)
    assert torch.equal(run(builder, module, x)[0], (x * 2.0 + 2.0) * 2.0)


def test_both_forms_of_a_value_live_side_by_side() -> None:
    module, nodes = chain(2)
    identity = Identity.on([block(nodes, 1)])
    builder = StageBuilder("both", lambda n: n.op != "placeholder")
    builder.outputs["real"] = builder.value(nodes["block1"])
    builder.outputs["skipped"] = builder.value(nodes["block1"], identity)
    x = torch.randn(1, 2)
    real, skipped = run(builder, module, x)
    before = module.block0(x * 2.0) + 2.0
    assert torch.equal(skipped, before) and torch.equal(real, module.block1(before))


def test_a_block_that_continues_nothing_has_no_identity() -> None:
    _, nodes = chain(2)
    opaque = Block(nodes["block0"], "block0", "", nn.Linear, 6, {}, None)
    builder = StageBuilder("skip", lambda n: n.op != "placeholder")
    with pytest.raises(OpaqueValueError, match="block0"):
        builder.value(nodes["block1"], Identity.on([opaque]))


def test_inputs_can_be_fixed_and_come_first() -> None:
    module, nodes = chain(1)
    builder = StageBuilder("stage", lambda n: n.op != "placeholder")
    total = builder.call(torch.add, builder.value(nodes["block0"]), builder.input("more"))
    builder.outputs["out"] = total
    stage = builder.finish(module, ("unused", "more", "x"))
    assert stage.inputs == ("unused", "more", "x")
    x = torch.randn(1, 2)
    assert torch.equal(stage.graph(None, torch.ones(2), x)[0], module.block0(x * 2.0) + 1)


def test_thousands_of_operators_need_no_recursion() -> None:
    graph = Graph()
    value = graph.placeholder("x")
    for _ in range(5_000):
        value = graph.call_function(torch.neg, (value,))
    graph.output((value,))
    builder = StageBuilder("long", lambda n: n.op != "placeholder")
    builder.outputs["out"] = builder.value(value)
    assert torch.equal(run(builder, GraphModule(nn.Module(), graph), torch.ones(2))[0], torch.ones(2))


def test_sizes_and_attributes_are_free_and_values_are_not() -> None:
    graph = Graph()
    x = graph.placeholder("x")
    weight = graph.get_attr("weight")
    size = graph.call_function(torch.ops.aten.sym_size.int, (x, 0))
    size.meta["val"] = 3
    twice = graph.call_function(max, (size, size))
    twice.meta["val"] = 6
    value = graph.call_function(torch.neg, (x,))
    value.meta["val"] = torch.empty(0)
    assert is_free(weight) and is_free(size) and is_free(twice)
    assert not is_free(x) and not is_free(value)
