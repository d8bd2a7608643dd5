"""Pair each block's outputs with its inputs: the streams; find the primary one; cut off refiners.

A stream is a value carried from block to block: output k of one block that becomes parameter p of the
next. For blocks of one class this dataflow says which parameter an output continues; equal shapes
alone would not (hidden states and encoder hidden states can have the same).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch.fx import Node

from ..ir.blocks import Block
from ..ir.dataflow import ancestors, argument_values, equalities, numel, output_values, same_shape
from ..ir.program import Program
from ..ops.shard import own_part

Pairing = dict[Any, Any]  # place of an output in the result → path of the argument it continues


def pair_streams(program: Program) -> Program:
    """Fill `carries` and `primary` of every block and drop a prefix that is not part of the chain.

    Takes a chain. Ensures that every pair of a stream has one shape and dtype; where sizes must be equal for
    that, `assumed` says so. Fills `beside` with further calls of the chain's modules; `notes` says what was
    dropped. Where the blocks do not matter there is nothing to pair.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.passes.pair_streams import pair_streams
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> block = pair_streams(cached.graph.program).chain[1]
        >>> block.primary, block.carries  # what it returns continues what it was given
        (layers_1, {layers_1: layers_0})
    """
    if not program.needs_chain:
        return program
    chain = list(program.chain)
    pairings = _pairings(chain)
    blocks = [dataclasses.replace(b, carries=_carries(b, pairings.get(b.kind))) for b in chain]
    blocks = _with_primary(program, blocks)
    start, notes = _start(blocks)
    chain_blocks = tuple(blocks[start:])
    pairs = (pair for b in chain_blocks for pair in b.carries.items())
    assumed = {condition for pair in pairs for condition in equalities(*pair)}
    beside = tuple(
        dataclasses.replace(b, carries=_carries(b, pairings.get(b.kind)))
        for b in _beside(program, chain_blocks)
    )
    assumed |= {c for b in beside for pair in b.carries.items() for c in equalities(*pair)}
    return program.replace(
        chain=chain_blocks, beside=beside, assumed=tuple(assumed), notes=(*program.notes, *notes)
    )


def _beside(program: Program, chain: tuple[Block, ...]) -> Iterator[Block]:
    """Calls of the chain's modules that are not in the chain: a block that is run on two inputs, say."""
    by_name = {b.name: b for b in chain}
    nodes = {b.node for b in chain}
    for node in program.capture.graph.graph.find_nodes(op="call_module"):
        if node not in nodes and str(node.target) in by_name:
            yield dataclasses.replace(by_name[str(node.target)], node=node, primary=None)


def _pairings(chain: list[Block]) -> dict[type, Pairing]:
    """For each class, from the places where two of its blocks follow each other."""
    votes: dict[type, Counter[tuple[Any, Any]]] = {}
    for block, following in itertools.pairwise(chain):
        if block.kind is not following.kind:
            continue
        count = votes.setdefault(block.kind, Counter())
        taken = [
            (path, argument, ancestors([argument], stop=lambda n: n.op == "call_module"))
            for path, argument in argument_values(following.node)
        ]
        for k, value in output_values(block.node).items():
            for path, argument, behind in taken:
                if argument is value:
                    count[(k, path)] += 1000  # handed on as it is: outweighs any flow through glue
                elif value in behind:
                    count[(k, path)] += 1
    return {kind: _best(count) for kind, count in votes.items() if count}


def _best(votes: Counter[tuple[Any, Any]]) -> Pairing:
    pairing: Pairing = {}
    for (k, path), _ in votes.most_common():
        # A class may give one tensor in one list and several in another: those never meet in one call.
        together = [p for j, p in pairing.items() if (j == ()) == (k == ())]
        if k not in pairing and path not in together:
            pairing[k] = path
    return pairing


def _carries(block: Block, pairing: Pairing | None) -> dict[Node, Node]:
    arguments = argument_values(block.node)
    values = output_values(block.node)
    carries: dict[Node, Node] = {}
    if pairing is not None:
        by_path = dict(arguments)
        for k, path in pairing.items():
            carried = _carried(values.get(k), by_path.get(path))
            if carried is not None:
                carries[values[k]] = carried
        return carries
    # No two of its class in a row, or modules between them that change the stream: an output continues
    # the first argument shaped like it.
    free = [node for _, node in arguments]
    for value in values.values():
        match = next((a for a in free if _carried(value, a) is not None), None)
        if match is not None:
            carries[value] = _carried(value, match)  # type: ignore[assignment]
            free.remove(match)
    return carries


def _carried(value: Node | None, argument: Node | None) -> Node | None:
    """What `value` continues of an argument: all of it, or this rank's part; None where the shapes differ."""
    if value is None or argument is None:
        return None
    parts = (user for user in argument.users if user.target is own_part)
    return next((node for node in (argument, *parts) if same_shape(value, node)), None)


def _with_primary(program: Program, blocks: list[Block]) -> list[Block]:
    """Follow the stream that reaches the model's output back to the first block."""
    sample = _sample_lineage(program, blocks)
    output = program.capture.graph.graph.output_node()
    wanted: list[Node] = list(output.all_input_nodes)
    result: list[Block] = []
    others = {b.node for b in blocks}
    for block in reversed(blocks):
        others.remove(block.node)
        reached = ancestors(wanted, stop=others.__contains__)
        others.add(block.node)
        values = list(output_values(block.node).values())
        candidates = [v for v in values if v in reached] or values
        direct = [v for v in candidates if v in wanted]
        primary = max(direct or candidates, key=lambda v: (v in sample, numel(v)), default=None)
        result.append(dataclasses.replace(block, primary=primary))
        carried = block.carries.get(primary) if primary is not None else None
        wanted = [carried] if carried is not None else [a for _, a in argument_values(block.node)]
    return result[::-1]


def _sample_lineage(program: Program, blocks: list[Block]) -> set[Node]:
    """Output values on streams that start from the model's first floating input, the noisy sample."""
    graph = program.capture.graph.graph
    calls = {b.node for b in blocks}
    sample = next((p for p in graph.find_nodes(op="placeholder") if p.meta["val"].is_floating_point()), None)
    lineage: set[Node] = {sample} if sample is not None else set()
    for block in blocks:
        for value, carried in block.carries.items():
            if ancestors([carried], stop=calls.__contains__) & lineage:
                lineage.add(value)
        # a value reached through the call itself would count every stream: stop at calls above
    return lineage


def _start(blocks: list[Block]) -> tuple[int, tuple[str, ...]]:
    """Where the chain really starts, behind refiners that only prepare what it takes in; and why there.

    At a change of list the part before is cut off when the primary stream does not come from it, or
    when the stream is joined there by values that bypass it and it is the much smaller part.
    """
    calls = {b.node for b in blocks}
    for k in range(len(blocks) - 1, 0, -1):
        before, block = blocks[k - 1], blocks[k]
        if before.module_list == block.module_list:
            continue
        carried = block.carries.get(block.primary) if block.primary is not None else None
        if carried is None:
            continue
        reached = ancestors([carried], stop=calls.__contains__)
        left = f"blocks before '{block.name}' are not of the chain"
        if before.node not in reached:
            return k, (f"{left}: its primary stream does not come from them",)
        bypass = any(n.op == "placeholder" and n.meta["val"].is_floating_point() for n in reached)
        prefix = sum(b.parameters for b in blocks[:k])
        rest = sum(b.parameters for b in blocks[k:])
        if bypass and 2 * prefix <= rest:
            why = "an input of the model joins the stream behind them, and they are at most half as large"
            return k, (f"{left}: {why}",)
    return 0, ()
