"""What must hold of a program after each pass. A violation is a defect of fxcache, told as such."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.fx import Graph, Node

from ..errors import GraphSpecError
from .dataflow import ancestors, same_shape
from .program import Program

Check = Callable[[Program], str | None]


def verify(program: Program, after: str) -> None:
    """Raise `GraphSpecError` if the program breaks a rule that holds from pass `after` on."""
    for check in CHECKS.get(after, ()):
        problem = check(program)
        if problem is not None:
            raise GraphSpecError(after, problem)


def _chain_consumes(program: Program) -> str | None:
    calls = {b.node for b in program.chain}
    for before, block in zip(program.chain, program.chain[1:], strict=False):
        # No block of the chain runs between the two, so that nothing behind another one matters.
        if before.node not in ancestors(block.node.all_input_nodes, stop=calls.__contains__):
            return f"block '{block.name}' does not consume what '{before.name}' produced"
    return None


def _values_described(program: Program) -> str | None:
    for node in program.capture.graph.graph.nodes:
        if node.op not in ("output", "get_attr") and "val" not in node.meta:
            return f"value '{node.name}' has no metadata"
    return None


def _streams_paired(program: Program) -> str | None:
    for block in program.chain:
        if block.primary is None:
            return f"block '{block.name}' gives no tensor"
        if len(set(block.carries.values())) != len(block.carries):
            return f"two outputs of block '{block.name}' continue the same input"
        for value, carried in block.carries.items():
            if not same_shape(value, carried):
                return f"'{value.name}' and the input '{carried.name}' that it continues differ in shape"
    return None


def _regions_ordered(program: Program) -> str | None:
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


def _middles_complete(program: Program) -> str | None:
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


def _block_names(program: Program) -> set[str]:
    return {b.name for s in program.segments for b in s.middle}


def _branches_agree(program: Program) -> str | None:
    for segment in program.segments:
        suffix = "" if len(program.segments) == 1 else f"_{segment.index}"
        skip, compute = program.stages["skip" + suffix], program.stages["compute" + suffix]
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
    return None


def _is_size(node: Node) -> bool:
    return not isinstance(node.meta.get("val", torch.Tensor()), torch.Tensor)


def _nothing_dead(program: Program) -> str | None:
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


CHECKS: dict[str, tuple[Check, ...]] = {
    "find_chain": (_values_described, _chain_consumes),
    "pair_streams": (_chain_consumes, _streams_paired),
    "assign_regions": (_regions_ordered,),
    "partition": (_middles_complete,),
    "insert_forecast": (_middles_complete,),
    "insert_conditional": (_branches_agree, _nothing_dead),
}
