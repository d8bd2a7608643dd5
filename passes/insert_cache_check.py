"""Insert the decision at the end of each front: hit or compute."""

from __future__ import annotations

import operator

import torch
from torch.fx import Node

from ..config import CacheConfig
from ..ir.keys import StateKey, ValueKey, ValueKind
from ..ir.program import Program, Trunk
from ..ir.settings import settings_rows
from ..ir.state import StateTensor
from ..ops.cache_check import cache_check
from ..ops.knobs import WIDTH as KNOBS
from ..ops.plan import FIRST, PLANS, ROWS, follow_plan

FOLLOWED: tuple[ValueKind, ...] = ("hit", "record", "row", "follows")  # what `follow_plan` returns


def insert_cache_check(program: Program) -> Program:
    """Each front also returns `hit`, `record` and the residual; adds the state that needs.

    Takes clocks and measured signals, and adds to a copy of the partition. Ensures that every segment has a
    decision, a 0-dim bool. The state: `knobs_i` [1028] float32; of plans `plan_i` [4, 257, 3 + k] and
    `fits_i` [4], both float32, instead. What is in `knobs_i` and `plan_i` may be exchanged between runs.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.passes import PASSES
        >>> from fxcache.passes.insert_cache_check import insert_cache_check
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> program = cached.graph.program.replace(state=())
        >>> for step in PASSES[4:8]:  # partition to insert_cache_check
        ...     program = step(program)
        >>> [tensor.name for tensor in program.state]
        ['clock_0', 'log_0', 'sample_0', 'previous_0', 'knobs_0']
        >>> list(program.partition.trunks[0].builder.outputs)
        ['layers_0', 'now_0', 'residual_0', 'hit_0', 'record_0']
    """
    assert program.partition is not None
    program = program.replace(partition=program.partition.copy())
    assert program.partition is not None
    state: list[StateTensor] = []
    device = program.main_value.device  # state lives where the blocks run
    for index, trunk in enumerate(program.partition.trunks[:-1]):
        now = trunk.builder.outputs[ValueKey("now", index).name]
        decide = _by_plan if program.config.plans else _by_number
        state += decide(trunk, now, program.config, index, device)
    return program.replace(state=(*program.state, *state))


def _by_plan(
    trunk: Trunk, now: Node, config: CacheConfig, index: int, device: torch.device
) -> list[StateTensor]:
    """The decision of plans: no look at what the model computes."""
    builder, shape = trunk.builder, (PLANS, ROWS, FIRST + config.values)
    plan = StateTensor(StateKey("plan", index).name, shape, torch.float32, device, settings_rows(config))
    fits = StateTensor(StateKey("fits", index).name, (PLANS,), torch.float32, device)
    followed = builder.call(follow_plan, now, builder.state(fits), builder.state(plan))
    for place, kind in enumerate(FOLLOWED):
        item = builder.call(operator.getitem, followed, place, named=kind)
        builder.outputs[ValueKey(kind, index).name] = item
    return [plan, fits]


def _by_number(
    trunk: Trunk, now: Node, config: CacheConfig, index: int, device: torch.device
) -> list[StateTensor]:
    """The decision of a policy, by its number, within the limits that the knobs set."""
    builder = trunk.builder
    name, shape = StateKey("knobs", index).name, (KNOBS,)
    knobs = StateTensor(name, shape, torch.float32, device, settings_rows(config))
    check = builder.call(cache_check, now, trunk.number, builder.state(knobs))
    builder.outputs[ValueKey("hit", index).name] = builder.call(operator.getitem, check, 0, named="hit")
    builder.outputs[ValueKey("record", index).name] = builder.call(operator.getitem, check, 1, named="record")
    return [knobs]
