"""The passes, in the order in which they run, each with what must hold after it.

Each takes a `Program` and returns it with one thing more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..ir.program import Program
from ..ir.verify import (
    Rule,
    branches_agree,
    chain_consumes,
    decisions_made,
    graph_described,
    hits_replay,
    middles_complete,
    nothing_dead,
    regions_ordered,
    segments_whole,
    stages_described,
    streams_paired,
    values_described,
    verify,
)
from .assign_regions import assign_regions
from .find_chain import find_chain
from .insert_cache_check import insert_cache_check
from .insert_conditional import insert_conditional
from .insert_forecast import insert_forecast
from .pair_streams import pair_streams
from .partition import partition
from .split_segments import split_segments


@dataclass(frozen=True)
class Pass:
    """A pass, and the rules that hold once it has run."""

    run: Callable[[Program], Program]
    ensures: tuple[Rule, ...]

    def __call__(self, program: Program) -> Program:
        """Run it and verify what it returns. Raises `GraphSpecError` and what the pass itself raises."""
        result = self.run(program)
        verify(result, self.ensures, after=self.run.__name__)
        return result


PASSES: tuple[Pass, ...] = (
    Pass(find_chain, (values_described, chain_consumes)),
    Pass(pair_streams, (chain_consumes, streams_paired)),
    Pass(split_segments, (segments_whole,)),
    Pass(assign_regions, (regions_ordered,)),
    Pass(partition, (stages_described, middles_complete)),
    Pass(insert_cache_check, (stages_described, decisions_made)),
    Pass(insert_forecast, (stages_described, middles_complete, hits_replay)),
    Pass(insert_conditional, (graph_described, branches_agree, nothing_dead)),
)


def run_passes(program: Program) -> Program:
    """Run every pass and verify the program after each. Raises `GraphSpecError` and the passes' own."""
    for step in PASSES:
        program = step(program)
    return program
