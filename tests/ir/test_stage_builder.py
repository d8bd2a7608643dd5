"""`StageBuilder`: stages copy what is inside, take the rest as inputs, and know the blocks' identity."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node

from fxcache.errors import GraphSpecError
from fxcache.ir.blocks import Block
from fxcache.ir.fake_values import FakeValues
from fxcache.ir.stage_builder import Identity, OpaqueValueError, StageBuilder, is_free
from fxcache.ir.state import StateTensor
from fxcache.ops.clock import WIDTH, Times, times
from fxcache.ops.cond import store

MODE = FakeTensorMode()


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
    for node in graph.nodes:
        if node.op != "output":
            node.meta["val"] = MODE.from_tensor(torch.empty(1, 2))
    return GraphModule(root, graph), found


def block(nodes: dict[str, Node], index: int) -> Block:
    node = nodes[f"block{index}"]
    return Block(node, f"block{index}", "", nn.Linear, 6, {node: node.args[0]}, node)  # type: ignore[dict-item]


def run(builder: StageBuilder, module: GraphModule, *args: Any) -> Any:
    return builder.finish(module).graph(*args)


def test_a_stage_copies_what_is_inside_and_takes_the_rest() -> None:
    module, nodes = chain()
    builder = StageBuilder("middle", lambda n: n in (nodes["block1"], nodes["glue2"]), FakeValues(module))
    builder.outputs["out"] = builder.value(nodes["glue2"])
    assert tuple(builder.inputs) == (nodes["glue1"].name,)
    stage = builder.finish(module)
    assert stage.inputs == (nodes["glue1"].name,) and stage.outputs == ("out",)
    x = torch.randn(1, 2)
    assert torch.equal(stage.graph(x)[0], module.block1(x) * 2.0)


def test_a_value_is_copied_once() -> None:
    module, nodes = chain()
    builder = StageBuilder("all", lambda n: n.op != "placeholder", FakeValues(module))
    assert builder.value(nodes["block2"]) is builder.value(nodes["block2"])
    calls = [n for n in builder.graph.nodes if n.op == "call_module"]
    assert [n.target for n in calls] == ["block0", "block1", "block2"]


def test_with_the_identity_blocks_vanish_and_glue_stays() -> None:
    module, nodes = chain()
    identity = Identity.on([block(nodes, 0), block(nodes, 1), block(nodes, 2)])
    builder = StageBuilder("skip", lambda n: n.op != "placeholder", FakeValues(module))
    builder.outputs["out"] = builder.value(nodes["block2"], identity)
    assert not builder.graph.find_nodes(op="call_module")
    x = torch.randn(1, 2)
    assert torch.equal(run(builder, module, x)[0], (x * 2.0 + 2.0) * 2.0)


def test_both_forms_of_a_value_live_side_by_side() -> None:
    module, nodes = chain(2)
    identity = Identity.on([block(nodes, 1)])
    builder = StageBuilder("both", lambda n: n.op != "placeholder", FakeValues(module))
    builder.outputs["real"] = builder.value(nodes["block1"])
    builder.outputs["skipped"] = builder.value(nodes["block1"], identity)
    x = torch.randn(1, 2)
    real, skipped = run(builder, module, x)
    before = module.block0(x * 2.0) + 2.0
    assert torch.equal(skipped, before) and torch.equal(real, module.block1(before))


def test_a_block_that_continues_nothing_has_no_identity() -> None:
    module, nodes = chain(2)
    opaque = Block(nodes["block0"], "block0", "", nn.Linear, 6, {}, None)
    builder = StageBuilder("skip", lambda n: n.op != "placeholder", FakeValues(module))
    with pytest.raises(OpaqueValueError, match="block0"):
        builder.value(nodes["block1"], Identity.on([opaque]))


def test_inputs_can_be_fixed_and_come_first() -> None:
    module, nodes = chain(1)
    builder = StageBuilder("stage", lambda n: n.op != "placeholder", FakeValues(module))
    total = builder.call(torch.add, builder.value(nodes["block0"]), builder.input("more", nodes["x"]))
    builder.outputs["out"] = total
    stage = builder.finish(module, {"unused": nodes["x"], "more": nodes["x"], "x": nodes["x"]})
    assert stage.inputs == ("unused", "more", "x")
    x = torch.randn(1, 2)
    assert torch.equal(stage.graph(None, torch.ones(2), x)[0], module.block0(x * 2.0) + 1)


def test_thousands_of_operators_need_no_recursion() -> None:
    graph = Graph()
    value = graph.placeholder("x")
    for _ in range(5_000):
        value = graph.call_function(torch.neg, (value,))
    graph.output((value,))
    module = GraphModule(nn.Module(), graph)
    builder = StageBuilder("long", lambda n: n.op != "placeholder", FakeValues(module))
    builder.outputs["out"] = builder.value(value)
    assert torch.equal(run(builder, module, torch.ones(2))[0], torch.ones(2))


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


def test_inserted_calls_say_what_they_return() -> None:
    module, nodes = chain(1)
    builder = StageBuilder("stage", lambda n: n.op != "placeholder", FakeValues(module))
    mean = builder.call(torch.mean, builder.value(nodes["block0"]), dtype=torch.float64)
    pair = builder.call(torch.aminmax, builder.value(nodes["block0"]), dim=1)
    least = builder.call(operator.getitem, pair, 0)
    assert (mean.meta["val"].shape, mean.meta["val"].dtype) == ((), torch.float64)
    assert least.meta["val"].shape == (1,)
    now = builder.state(StateTensor("now", (WIDTH,), torch.float64, torch.device("cpu")))
    where = builder.call(times, now, "step").meta["val"]
    assert isinstance(where, Times) and where.past[0].shape == ()


def test_a_call_in_place_returns_nothing_and_leaves_the_other_values_as_they_were() -> None:
    module, nodes = chain(1)
    builder = StageBuilder("stage", lambda n: n.op != "placeholder", FakeValues(module))
    value = builder.value(nodes["block0"])
    slot = builder.state(StateTensor("slot", (4, 2), torch.float32, torch.device("cpu")))
    before = [(n, n.meta["val"], n.meta["val"].shape, n.meta["val"].stride()) for n in (value, slot)]
    assert builder.call(store, slot, value).meta["val"] is None
    assert all(n.meta["val"] is v and (v.shape, v.stride()) == (s, t) for n, v, s, t in before)


def test_a_call_that_needs_values_is_refused() -> None:
    module, nodes = chain(1)
    builder = StageBuilder("stage", lambda n: n.op != "placeholder", FakeValues(module))

    def reads(value: torch.Tensor) -> torch.Tensor:
        return value if value.sum() > 0 else -value

    with pytest.raises(GraphSpecError, match="'reads' does not run on fake tensors"):
        builder.call(reads, builder.value(nodes["block0"]))


def test_a_copy_is_built_on_while_the_first_stays() -> None:
    module, nodes = chain(2)
    builder = StageBuilder("stage", lambda n: n.op != "placeholder", FakeValues(module))
    builder.outputs["out"] = builder.value(nodes["block0"])
    text = str(builder.graph)
    other, copies = builder.copy()
    assert str(other.graph) == text and other.outputs["out"] is copies[builder.outputs["out"]]
    other.outputs["more"] = other.call(torch.neg, other.value(nodes["block1"]))
    other.input("further", nodes["x"])
    assert (
        str(builder.graph) == text and tuple(builder.outputs) == ("out",) and tuple(builder.inputs) == ("x",)
    )
    x = torch.randn(1, 2)
    assert torch.equal(run(other, module, x, None)[1], -module.block1(module.block0(x * 2.0) + 2.0))
    assert torch.equal(run(builder, module, x)[0], module.block0(x * 2.0))
