"""Rules that a program must keep; `passes` says from which pass on. A violation is a defect of fxcache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

from ..errors import GraphSpecError
from ..ops.agreement import gather_shares, unanimous
from ..ops.cond import materialize
from ..ops.nearness import is_near
from ..ops.residual_diff import largest_row_diff, mean_change, residual_diff
from .dataflow import ancestors, same_shape
from .keys import StateKey, ValueKey, stage_name
from .program import Program
from .ranks import named
from .stage import Stage

ALONE = (is_near, residual_diff, mean_change, largest_row_diff)  # measured of one rank's part

Rule = Callable[[Program], str | None]  # what is broken, in words, or None


def verify(program: Program, rules: Sequence[Rule], after: str) -> None:
    """Raise `GraphSpecError` if the program, as the pass `after` returned it, breaks one of `rules`."""
    for rule in rules:
        problem = rule(program)
        if problem is not None:
            raise GraphSpecError(after, problem)


def chain_consumes(program: Program) -> str | None:
    calls = {b.node for b in program.chain}
    for before, block in zip(program.chain, program.chain[1:], strict=False):
        # No block of the chain runs between the two, so that nothing behind another one matters.
        if before.node not in ancestors(block.node.all_input_nodes, stop=calls.__contains__):
            return f"block '{block.name}' does not consume what '{before.name}' produced"
    return None


def values_described(program: Program) -> str | None:
    return _undescribed(program.capture.graph.graph)


def stages_described(program: Program) -> str | None:
    assert program.partition is not None
    stages = [trunk.builder for trunk in program.partition.trunks]
    stages += [builder for m in program.partition.middles for builder in (m.compute, m.skip)]
    found = ((s.name, _undescribed(s.graph)) for s in stages)
    return next((f"in '{name}' {problem}" for name, problem in found if problem is not None), None)


def graph_described(program: Program) -> str | None:
    assert program.graph is not None
    graphs = {"the outer graph": program.graph, **{n: s.graph for n, s in program.stages.items()}}
    found = ((name, _undescribed(module.graph)) for name, module in graphs.items())
    return next((f"in {name} {problem}" for name, problem in found if problem is not None), None)


def _undescribed(graph: Graph) -> str | None:
    for node in graph.nodes:
        if node.op not in ("output", "get_attr") and "val" not in node.meta:
            return f"value '{node.name}' has no metadata"
    return None


def streams_paired(program: Program) -> str | None:
    if not program.needs_chain:
        return None
    for block in program.chain:
        if block.primary is None:
            return f"block '{block.name}' gives no tensor"
        if len(set(block.carries.values())) != len(block.carries):
            return f"two outputs of block '{block.name}' continue the same input"
        for value, carried in block.carries.items():
            if not same_shape(value, carried):
                return f"'{value.name}' and the input '{carried.name}' that it continues differ in shape"
    return None


def segments_whole(program: Program) -> str | None:
    if [s.index for s in program.segments] != list(range(len(program.segments))):
        return "segments are not numbered in order"
    split = [b.node for s in program.segments for b in s.blocks]
    if split != [b.node for b in program.chain]:
        return "the segments' blocks are not the chain's"
    for segment in program.segments:
        if segment.fn + segment.bn > len(segment.blocks):
            return f"segment {segment.index} has fewer blocks than its Fn + Bn"
    return None


def regions_ordered(program: Program) -> str | None:
    regions = program.regions
    for node, region in regions.items():
        for source in node.all_input_nodes:
            if regions.get(source, 0) > region:
                return f"'{node.name}' runs before '{source.name}', which it needs"
    for segment in program.segments:
        for block in segment.middle:
            if regions[block.node] != 2 * segment.index + 1:
                return f"middle block '{block.name}' lies outside the middle"
    return None


def steps_counted(program: Program) -> str | None:
    assert program.partition is not None
    known = {tensor.name for tensor in program.state}
    for index, trunk in enumerate(program.partition.trunks[:-1]):
        if ValueKey("now", index).name not in trunk.builder.outputs:
            return f"'{trunk.builder.name}' does not say which step it is"
        for key in (StateKey("clock", index), StateKey("log", index)):
            if key.name not in known:
                return f"there is no state '{key.name}'"
    return None


def signals_remembered(program: Program) -> str | None:
    assert program.partition is not None
    known = {tensor.name for tensor in program.state}
    for index, trunk in enumerate(program.partition.trunks[:-1]):
        if trunk.signal is not None and StateKey("previous", index).name not in known:
            return f"segment {index} has a signal and does not remember the last"
    return None


def decisions_made(program: Program) -> str | None:
    assert program.partition is not None
    given: set[str] = set()
    for index, trunk in enumerate(program.partition.trunks[:-1]):
        given |= set(trunk.builder.outputs)
        for value in (ValueKey("hit", index), ValueKey("record", index)):
            if value.name not in given:
                return f"'{trunk.builder.name}' does not give '{value.name}'"
    return None


def ranks_agree(program: Program) -> str | None:
    """Where ranks decide together, nothing that one rank alone sees decides; else nothing is gathered."""
    assert program.partition is not None
    expected = {gather_shares: named(program.groups, "parts"), unanimous: named(program.groups, "each")}
    for index, trunk in enumerate(program.partition.trunks[:-1]):
        behind = ancestors([trunk.builder.outputs[ValueKey("hit", index).name]])
        for target, groups in expected.items():
            if bool(groups) != any(n.target is target for n in behind):
                return f"the decision of '{trunk.builder.name}' is not that of {groups or 'one process'}"
        if expected[gather_shares] and any(n.target in ALONE for n in behind):
            return f"the decision of '{trunk.builder.name}' depends on what one rank alone sees"
    return None


def middles_complete(program: Program) -> str | None:
    assert program.partition is not None
    for middle in program.partition.middles:
        names = {n.name for n in middle.outputs}
        if set(middle.compute.outputs) != names:
            return f"'{middle.compute.name}' does not give {names - set(middle.compute.outputs)}"
        skipped = set(middle.skip.graph.nodes)
        for node in middle.outputs:
            if not isinstance(node.meta["val"], torch.Tensor) and middle.skeletons[node.name] is None:
                return f"size '{node.name}' depends on what a hit skips"
        if any(n.op == "call_module" and str(n.target) in _block_names(program) for n in skipped):
            return f"'{middle.skip.name}' runs a block"
    return None


def hits_replay(program: Program) -> str | None:
    assert program.partition is not None
    for middle in program.partition.middles:
        missing = set(middle.compute.outputs) - set(middle.skip.outputs)
        if missing:
            return f"'{middle.skip.name}' does not give {missing}"
    return None


def _block_names(program: Program) -> set[str]:
    return {b.name for s in program.segments for b in s.middle}


def branches_agree(program: Program) -> str | None:
    for segment in program.segments:
        place = (segment.index, len(program.segments))
        skip, compute = (program.stages[stage_name(k, *place)] for k in ("skip", "compute"))
        if skip.inputs != compute.inputs:
            return f"branches of segment {segment.index} take different inputs"
        if skip.outputs != compute.outputs:
            return f"branches of segment {segment.index} give different outputs"
        for stage in (skip, compute):
            given = stage.graph.graph.output_node().all_input_nodes
            if len(set(given)) != len(stage.outputs):
                return f"two outputs of '{stage.name}' are the same tensor"
            if any(n.op == "placeholder" and not _is_size(n) for n in given):
                return f"an output of '{stage.name}' is one of its inputs"
        for name, hit, miss in zip(skip.outputs, _given(skip), _given(compute), strict=True):
            problem = _unlike(hit, miss)
            if problem is not None:
                return f"the branches of segment {segment.index} give '{name}' {problem}"
    return None


def _given(stage: Stage) -> list[Any]:
    given: Any = stage.graph.graph.output_node().args[0]
    return list(given)


def _unlike(hit: Any, miss: Any) -> str | None:
    """In what an output differs between the branches; whatever runs behind them was traced for one form.

    Strides are no part of that: an eager hit gives what arithmetic on the cache does, laid out densely.
    `materialize` gives both one layout where the conditional operator demands it.
    """
    if not isinstance(miss, Node) or not isinstance(hit, Node):
        return None if type(hit) is type(miss) else "as a number in one only"
    tensors = [isinstance(n.meta["val"], torch.Tensor) for n in (hit, miss)]
    if tensors == [False, False]:
        return None
    if not same_shape(hit, miss):
        return "in another shape or dtype"
    if hit.meta["val"].device != miss.meta["val"].device:
        return "on another device"
    if any(n.target is not materialize for n in (hit, miss)):
        return "in a layout of its own"
    return None


def _is_size(node: Node) -> bool:
    return not isinstance(node.meta.get("val", torch.Tensor()), torch.Tensor)


def nothing_dead(program: Program) -> str | None:
    assert program.graph is not None
    for tensor in program.state:
        if not _used(program.graph.graph, tensor.name):
            return f"state '{tensor.name}' is never used"
    for name, stage in program.stages.items():
        for node in stage.graph.graph.nodes:
            if node.op == "call_module" and not node.users:
                return f"'{node.name}' in '{name}' computes what nobody uses"
    return None


def _used(graph: Graph, name: str) -> bool:
    return any(n.name == name and n.users for n in graph.find_nodes(op="placeholder"))
