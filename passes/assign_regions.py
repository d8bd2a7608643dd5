"""Assign every node to a region: trunk before segment j (2j), middle of segment j (2j + 1), the rest.

Regions run in order and the middles are what a hit skips. A node that only a middle needs moves into
it, so that a hit does not pay for it; a node that depends on a middle but feeds none of its blocks
moves behind it, where it also runs on a hit. Where the model's output is cached, nothing does.
"""

from __future__ import annotations

import operator

from torch.fx import Node

from ..ir.dataflow import ancestors, takes_out
from ..ir.program import Program


def assign_regions(program: Program) -> Program:
    """Fill `regions`, for every node but placeholders and the output.

    Takes segments. Ensures that no node needs one of a later region.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.passes.assign_regions import assign_regions
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> regions = assign_regions(cached.graph.program).regions
        >>> {node.name: region for node, region in regions.items() if node.op == "call_module"}
        {'layers_3': 2, 'layers_2': 1, 'layers_1': 1, 'layers_0': 0}
    """
    graph = program.capture.graph.graph
    if program.config.level == "output":
        return program.replace(regions=_front_and_rest(program))
    last = 2 * len(program.segments)
    fixed = _block_regions(program)
    first = _first_operands(program)
    earliest: dict[Node, int] = {}
    for node in graph.nodes:
        above = max((earliest[n] for n in node.all_input_nodes), default=0)
        earliest[node] = fixed.get(node, above)
    regions: dict[Node, int] = {}
    for node in reversed(graph.nodes):
        if node.op in ("placeholder", "output"):
            continue
        if _is_item(node):  # decided with the call that it belongs to
            continue
        users = {regions[u] if u.op != "output" else last for u in _final_users(node)}
        users.update(*(first.get(n, ()) for n in (node, *_taken_out(node))))
        region = fixed.get(node, _place(earliest[node], users or {last}))
        regions[node] = region
        for user in _taken_out(node):
            regions[user] = region
    return program.replace(regions=regions)


def _front_and_rest(program: Program) -> dict[Node, int]:
    """Where the output is cached: what the front blocks need (0), and all else (1)."""
    (segment,) = program.segments
    front = {n for b in segment.blocks[: segment.fn] for n in (b.node, *b.carries.values())}
    needed = front | set(_first_operands(program))
    needed |= ancestors(needed)
    regions: dict[Node, int] = {}
    for node in program.capture.graph.graph.nodes:
        if node.op not in ("placeholder", "output"):
            source = node.args[0] if _is_item(node) else None
            own = 0 if node in needed else 1
            regions[node] = regions.get(source, own) if isinstance(source, Node) else own
    return regions


def _first_operands(program: Program) -> dict[Node, set[int]]:
    """What each segment's first block is given, where the policy looks at that: its trunk needs it."""
    found: dict[Node, set[int]] = {}
    for segment in program.segments if program.looks_at_norm else ():
        for node in segment.blocks[0].node.all_input_nodes:
            found.setdefault(node, set()).add(2 * segment.index)
    return found


def _is_item(node: Node) -> bool:
    """Whether `node` takes an item out of a module's result, or an operator's that gives several tensors.

    A region hands on the items, each with its own residual.
    """
    if takes_out(node):
        return True
    source = node.args[0] if node.target is operator.getitem else None
    return isinstance(source, Node) and isinstance(source.meta.get("val"), (tuple, list))


def _block_regions(program: Program) -> dict[Node, int]:
    fixed: dict[Node, int] = {}
    for segment in program.segments:
        total = len(segment.blocks)
        for i, block in enumerate(segment.blocks):
            step = 0 if i < segment.fn else 2 if i >= total - segment.bn else 1
            fixed[block.node] = 2 * segment.index + step
            # A rank's own part of what a block splits itself: nothing uses it but what asks what is carried.
            fixed.update((n, fixed[block.node]) for n in block.carries.values() if not n.users)
    return fixed


def _place(earliest: int, users: set[int]) -> int:
    first = min(users)
    if first <= earliest:
        return earliest
    in_middle = first % 2 == 1
    if in_middle and users != {first}:  # also needed after that middle: run it before
        return first - 1
    return first


def _taken_out(node: Node) -> list[Node]:
    found: list[Node] = []
    stack = [u for u in node.users if _is_item(u)]
    while stack:
        user = stack.pop()
        found.append(user)
        stack.extend(u for u in user.users if _is_item(u))
    return found


def _final_users(node: Node) -> list[Node]:
    items = _taken_out(node)
    return [u for n in (node, *items) for u in n.users if not _is_item(u)]
