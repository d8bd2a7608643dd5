"""Capture one call and transform it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..capture.called_blocks import way_by_calls
from ..capture.capture import capture, module_calls
from ..capture.find_blocks import first_chain
from ..capture.forward_inputs import ForwardInputs
from ..config import CacheConfig
from ..errors import ConfigError
from ..ir.captured import Capture
from ..ir.fake_values import forget_operators
from ..ir.module_lists import Way
from ..ir.named_blocks import way_by_names
from ..ir.program import Program
from ..ir.ranks import RankGroup
from ..passes import run_passes
from ..torch_private import forget_environments
from .random_order import refuse_reordered


def transform_call(
    model: nn.Module,
    config: CacheConfig,
    scope: str,
    inputs: ForwardInputs,
    bound: Mapping[str, Any],
    tensors: list[torch.Tensor],
    numbers: tuple[str, ...] = (),
    groups: tuple[RankGroup, ...] = (),
    blocks: tuple[str, ...] = (),
) -> Program:
    """Capture one call and run the passes, with the first way of choosing blocks that finds a chain.

    groups: ranks that take each decision together. blocks: paths of the blocks, where a person named them.
    Raises `ConfigError` where the config has no cache to put into the graph, and what these raise.
    """
    if not config.enabled:
        need = "there is no cache to transform, explain or export; the model runs as it is"
        raise ConfigError("enabled", False, need)

    def passed(captured: Capture, way: Way) -> Program:
        timestep = inputs.timestep_of(captured.inputs)
        program = Program(
            captured,
            config,
            scope,
            timestep,
            by_class=way.by_class,
            among=way.blocks,
            named=dict(way.lists),
            groups=groups,
        )
        program = run_passes(program)
        forget_operators(captured.graph)
        refuse_reordered(program)
        return program

    def called() -> Way | None:
        return way_by_calls(model, module_calls(model, bound, tensors, numbers, bool(groups)))

    def captured(way: Way) -> Capture:
        return capture(model, bound, tensors, way, numbers, bool(groups))

    try:
        if blocks:
            way = way_by_names(model, blocks)
            return passed(captured(way), way)
        return first_chain(model, captured, passed, called)
    finally:
        forget_environments()
