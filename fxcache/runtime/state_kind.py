"""When one graph of a model may go on with the state of another: when both remember the same.

A forward that decides by the time of a step has a graph for each outcome, and a trajectory goes through
several of them; and a graph that was dropped is captured again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy

from ..capture.leaf_adapter import called_leaf
from ..ir.program import Program
from .formula import Incomparable, formula

Kind = tuple[Any, ...]


def state_kind(program: Program, symbols: Mapping[sympy.Symbol, Any]) -> Kind | None:
    """What the state of a program is at these sizes: of equal kinds, one is as good as the other.

    None where nothing else is as good: it holds what cannot be compared, or sizes depend on data.
    """
    assert program.partition is not None
    modules = program.capture.graph
    segments = tuple(
        (s.fn, s.bn, tuple(called_leaf(modules.get_submodule(str(b.node.target))) for b in s.blocks))
        for s in program.segments
    )
    places = {b.node: (s.index, i) for s in program.segments for i, b in enumerate(s.blocks)}
    try:
        outputs = tuple(
            (node.name, formula(modules, node, places), middle.skeletons[node.name] is not None)
            for middle in program.partition.middles
            for node in middle.outputs
        )
    except Incomparable:
        return None
    state = tuple((t.name, t.sizes(symbols), t.dtype, t.device, t.initial) for t in program.state)
    if any(sizes is None for _, sizes, *_ in state):
        return None
    return (segments, outputs, state)
