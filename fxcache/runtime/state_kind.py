"""When one graph of a model may go on with the state of another: when both remember the same of the blocks.

A forward that decides by the time of a step has a graph for each outcome, and a trajectory goes through
several of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy
from torch.fx import Node

from ..capture.leaf_adapter import called_leaf
from ..ir.dataflow import takes_out
from ..ir.program import Program

Kind = tuple[Any, ...]


def state_kind(program: Program, symbols: Mapping[sympy.Symbol, Any]) -> Kind | None:
    """What the state of a program is at these sizes: of equal kinds, one is as good as the other.

    None where nothing else is as good: it holds values of the forward itself, or sizes depend on data.
    """
    assert program.partition is not None
    modules = program.capture.graph
    segments = tuple(
        (s.fn, s.bn, tuple(called_leaf(modules.get_submodule(str(b.node.target))) for b in s.blocks))
        for s in program.segments
    )
    outputs: list[Any] = []
    for middle in program.partition.middles:
        for node in middle.outputs:
            origin = _origin(program, node)
            if origin is None:
                return None
            outputs.append((node.name, *origin, middle.skeletons[node.name] is not None))
    state = tuple((t.name, t.sizes(symbols), t.dtype, t.device, t.initial) for t in program.state)
    if any(sizes is None for _, sizes, *_ in state):
        return None
    return (segments, tuple(outputs), state)


def _origin(program: Program, node: Node) -> tuple[Any, ...] | None:
    """Which block, by its place in the chain, gives a value, and where in its result."""
    path: list[Any] = []
    while takes_out(node):
        path.append(node.args[1])
        node = node.args[0]  # type: ignore[assignment]
    places = {b.node: (s.index, i) for s in program.segments for i, b in enumerate(s.blocks)}
    return (places[node], tuple(path)) if node in places else None
