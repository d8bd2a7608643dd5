"""Cut the captured graph into stages: trunks that always run, and a middle per segment.

The front residual and the skeletons are made here, where the original nodes are still at hand: a
middle's skeleton is the middle with every block replaced by the identity on its streams.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from ..capture.first_projection import before_first_projection
from ..capture.whole_parameters import fully_sharded
from ..config import CacheConfig
from ..errors import ConfigError
from ..ir.blocks import Block, Segment
from ..ir.dataflow import same_shape
from ..ir.fake_values import FakeValues
from ..ir.keys import ValueKey, stage_name
from ..ir.method import Method
from ..ir.program import Middle, Partition, Program, Trunk
from ..ir.stage_builder import Identity, OpaqueValueError, StageBuilder, is_free
from ..ops.history import every_nth


def partition(program: Program) -> Program:
    """Fill `partition` with builders of every stage, ready for nodes to be inserted.

    Takes regions. Ensures that every node of a stage is described (`meta["val"]`), and that every middle
    returns what later regions use. A middle's two ways are its blocks (`compute`) and its skeleton (`skip`).

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.passes.partition import partition
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> stages = partition(cached.graph.program).partition
        >>> stages.trunks[0].signal, stages.middles[0].outputs
        (residual, (layers_2,))
        >>> stages.middles[0].skeletons["layers_2"]  # in compute and in skip: the stream as it came
        (layers_0, layers_0)
    """
    crossing, fakes = _crossing(program), FakeValues(program.capture.graph)
    trunks = tuple(_trunk(program, j, crossing, fakes) for j in range(len(program.segments) + 1))
    middles = tuple(_middle(program, segment, crossing, fakes) for segment in program.segments)
    return program.replace(partition=Partition(trunks, middles))


def _crossing(program: Program) -> dict[int, list[Node]]:
    """For each region, its values that later regions or the model's output use, in order."""
    regions = program.regions
    crossing: dict[int, list[Node]] = {}
    for node in program.capture.graph.graph.nodes:
        if node not in regions or is_free(node):
            continue
        region = regions[node]
        later = (u.op == "output" or regions[u] != region for u in node.users)
        if any(later):
            crossing.setdefault(region, []).append(node)
    return crossing


def _trunk(program: Program, j: int, crossing: dict[int, list[Node]], fakes: FakeValues) -> Trunk:
    regions = program.regions
    last = j == len(program.segments)
    name = stage_name("back" if last else "front", j, len(program.segments))
    builder = StageBuilder(name, lambda n: regions.get(n) == 2 * j, fakes)
    _copy_in_order(program, builder, 2 * j, crossing)
    signal: Node | None = None
    whole: str | None = None
    if last:
        builder.outputs.clear()
        output = program.capture.graph.graph.output_node()
        for i, node in enumerate(output.args[0]):  # type: ignore[arg-type]
            builder.outputs[f"output_{i}"] = builder.value(node)  # type: ignore[arg-type]
    elif program.looks_at_norm:
        signal = _first_norm(program, program.segments[j], builder)
    else:
        signal, whole = _front_residual(program, program.segments[j], builder)
    return Trunk(builder, signal, whole=whole)


def _copy_in_order(
    program: Program, builder: StageBuilder, region: int, crossing: dict[int, list[Node]]
) -> None:
    needed = set(crossing.get(region, ()))
    nodes = [n for n, r in program.regions.items() if r == region]
    wanted = _needed(needed, set(nodes))
    for node in program.capture.graph.graph.nodes:
        if node in wanted and not is_free(node):
            builder.value(node)
    for node in crossing.get(region, ()):
        builder.outputs[node.name] = builder.value(node)


def _needed(starts: set[Node], inside: set[Node]) -> set[Node]:
    found: set[Node] = set()
    stack = [n for n in starts if n in inside]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack.extend(n for n in node.all_input_nodes if n in inside)
    return found


def _front_residual(
    program: Program, segment: Segment, builder: StageBuilder
) -> tuple[Node | None, str | None]:
    """Primary stream after the front blocks minus its skeleton; None where nothing is decided by it.

    And, where it has no skeleton, why the stream itself is all there is to compare.
    """
    if segment.fn == 0 or program.config.plans or program.config.policy.signal != "residual":
        return None, None
    front = segment.blocks[: segment.fn]
    primary = front[-1].primary
    if primary is None:
        return None, f"'{front[-1].name}' returns no tensor"
    value = builder.value(primary)
    identity = Identity.on((*front, *_beside(program, front, 2 * segment.index)))
    try:
        builder.copy()[0].value(primary, identity)  # where it has none nothing is left behind
    except OpaqueValueError as error:
        return _sampled(program, builder, value), str(error)
    before = builder.on(builder.value(primary, identity), value.meta["val"].device)
    residual = builder.call(torch.sub, value, before, named="residual")
    return _sampled(program, builder, residual), None


def _sampled(program: Program, builder: StageBuilder, signal: Node) -> Node:
    stride = program.config.signal_stride
    return signal if stride == 1 else builder.call(every_nth, signal, stride, named="sampled")


def _first_norm(program: Program, segment: Segment, builder: StageBuilder) -> Node:
    """What the first projection of the first block's primary stream is given."""
    block, fakes = segment.blocks[0], builder.fakes
    called = program.capture.graph.get_submodule(str(block.node.target))
    if fully_sharded(called):  # to trace it would gather its parameters
        need = f"looks into block '{block.name}', which FSDP shards; take one that looks at the front"
        raise ConfigError("policy", program.config.policy, need)
    stream = None if block.primary is None else block.carries.get(block.primary)
    operands = block.node.all_input_nodes
    norm = None
    if stream is not None:

        def call(*values: Any) -> Any:
            given = dict(zip(operands, values, strict=True))
            args, kwargs = map_arg((block.node.args, block.node.kwargs), given.__getitem__)
            return called(*args, **kwargs)

        values = [fakes.value(node) for node in operands]
        norm = before_first_projection(called, call, values, operands.index(stream))
    if norm is None:
        need = (
            f"finds no projection in block '{block.name}'; take one that looks at the sample, or at the front"
        )
        raise ConfigError("policy", program.config.policy, need)
    copies = [builder.value(node) for node in operands]
    return builder.module(f"_first_norm_{segment.index}", norm, copies, ValueKey("norm", segment.index).name)


def _beside(program: Program, blocks: Sequence[Block], region: int) -> list[Block]:
    """Further calls of the modules of `blocks`: where these do not run, they do not either."""
    names = {b.name for b in blocks}
    return [b for b in program.beside if b.name in names and program.regions.get(b.node) == region]


def _middle(program: Program, segment: Segment, crossing: dict[int, list[Node]], fakes: FakeValues) -> Middle:
    region = 2 * segment.index + 1
    place = (segment.index, len(program.segments))
    regions = program.regions

    def inside(node: Node) -> bool:
        return regions.get(node) == region

    compute = StageBuilder(stage_name("compute", *place), inside, fakes)
    skip = StageBuilder(stage_name("skip", *place), inside, fakes)
    _copy_in_order(program, compute, region, crossing)
    identity = Identity.on((*segment.middle, *_beside(program, segment.middle, region)))
    outputs = crossing.get(region, [])
    probe = StageBuilder("probe", inside, fakes)
    skeletons: dict[str, tuple[Node, Node] | None] = {}
    whole: dict[str, str] = {}
    for node in outputs:
        found = _skeleton(node, identity, probe, compute, skip, program.config)
        skeletons[node.name] = None if isinstance(found, str) else found
        if isinstance(found, str):
            whole[node.name] = found
    return Middle(compute, skip, tuple(outputs), skeletons, whole)


def _skeleton(
    node: Node,
    identity: Identity,
    probe: StageBuilder,
    compute: StageBuilder,
    skip: StageBuilder,
    config: CacheConfig,
) -> tuple[Node, Node] | str:
    """The skeleton's value of a middle output in both branches; where it has none, why.

    `probe` is a builder to try it in, so that nothing is left in the branches where it has none.
    """
    why = _whole_anyway(node, config)
    if why is not None:
        return why
    try:
        counterpart = probe.value(node, identity)
        # a size follows from shapes, which are equal wherever a stream is carried
        if isinstance(node.meta["val"], torch.Tensor) and not same_shape(counterpart, node):
            return "it has another shape or dtype where the blocks hand on their streams"
    except OpaqueValueError as error:
        return str(error)
    return compute.value(node, identity), skip.value(node, identity)


def _whole_anyway(node: Node, config: CacheConfig) -> str | None:
    """Why a middle's output is cached itself whatever its skeleton is; None where the residual may be."""
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor):  # a size
        if config.level == "output":
            raise ConfigError("level", "output", "the model returns a size that it computes; use 'middle'")
        return None
    if config.level == "output":
        return "the model's output is cached"
    if not value.dtype.is_floating_point:
        return f"{value.dtype} has no differences to forecast"
    return Method.of(config).whole
