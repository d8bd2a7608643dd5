"""The passes, in the order in which they run.

Each takes a `Program` and returns it with one thing more. After each, `verify` checks what must hold.
"""

from __future__ import annotations

from collections.abc import Callable

from ..ir.program import Program
from ..ir.verify import verify
from .assign_regions import assign_regions
from .find_chain import find_chain
from .insert_cache_check import insert_cache_check
from .insert_conditional import insert_conditional
from .insert_forecast import insert_forecast
from .pair_streams import pair_streams
from .partition import partition
from .split_segments import split_segments

Pass = Callable[[Program], Program]

PASSES: tuple[Pass, ...] = (
    find_chain,
    pair_streams,
    split_segments,
    assign_regions,
    partition,
    insert_cache_check,
    insert_forecast,
    insert_conditional,
)


def run_passes(program: Program) -> Program:
    """Run every pass and verify the program after each. Raises `GraphSpecError` and the passes' own."""
    for step in PASSES:
        program = step(program)
        verify(program, after=step.__name__)
    return program
