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
    ranks_agree,
    regions_ordered,
    segments_whole,
    signals_remembered,
    stages_described,
    steps_counted,
    streams_paired,
    values_described,
    verify,
)
from .assign_regions import assign_regions
from .find_chain import find_chain
from .insert_agreement import insert_agreement
from .insert_cache_check import insert_cache_check
from .insert_clock import insert_clock
from .insert_conditional import insert_conditional
from .insert_forecast import insert_forecast
from .measure_signal import measure_signal
from .pair_streams import pair_streams
from .partition import partition
from .split_segments import split_segments


@dataclass(frozen=True)
class Pass:
    """A pass, and the rules that hold once it has run.

    Example:
        >>> from fxcache.passes import PASSES
        >>> [step.run.__name__ for step in PASSES][:3]
        ['find_chain', 'pair_streams', 'split_segments']
        >>> [rule.__name__ for rule in PASSES[2].ensures]
        ['segments_whole']
    """

    run: Callable[[Program], Program]
    ensures: tuple[Rule, ...]

    def __call__(self, program: Program) -> Program:
        """Run it and verify what it returns.

        Raises:
            GraphSpecError: a rule does not hold. And what the pass itself raises.
        """
        result = self.run(program)
        verify(result, self.ensures, after=self.run.__name__)
        return result


PASSES: tuple[Pass, ...] = (
    Pass(find_chain, (values_described, chain_consumes)),
    Pass(pair_streams, (chain_consumes, streams_paired)),
    Pass(split_segments, (segments_whole,)),
    Pass(assign_regions, (regions_ordered,)),
    Pass(partition, (stages_described, middles_complete)),
    Pass(insert_clock, (stages_described, steps_counted)),
    Pass(measure_signal, (stages_described, signals_remembered)),
    Pass(insert_cache_check, (stages_described, decisions_made)),
    Pass(insert_forecast, (stages_described, middles_complete, hits_replay)),
    Pass(insert_agreement, (stages_described, decisions_made, ranks_agree)),
    Pass(insert_conditional, (graph_described, branches_agree, nothing_dead)),
)


def run_passes(program: Program) -> Program:
    """Run every pass and verify the program after each.

    Args:
        program: a capture and a config, nothing else filled in yet. It is not changed.

    Returns:
        The finished program: `graph` is the cached model, `stages` its parts, `state` what it remembers.

    Raises:
        NoBlocksError, TooManyBlocksError: the model has no chain, or too short a one. GraphSpecError: a
        defect of a pass.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.ir.program import Program
        >>> from fxcache.passes import run_passes
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> done = cached.graph.program
        >>> program = Program(done.capture, done.config, scope="model", timestep=None)
        >>> list(run_passes(program).stages)
        ['front', 'skip', 'compute', 'back']
    """
    for step in PASSES:
        program = step(program)
    return program
