"""Insert the decision at the end of each front: trajectory, residual diff, cache check."""

from __future__ import annotations

import operator

import torch
from torch.fx import Node

from ..config import CacheConfig
from ..ir.keys import StateKey, ValueKey, ValueKind
from ..ir.program import Program, Trunk
from ..ir.roles import Roles
from ..ir.settings import settings_rows
from ..ir.stage_builder import StageBuilder
from ..ir.state import StateTensor
from ..ops.cache_check import cache_check
from ..ops.clock import WIDTH, begin_step, continue_step, initial_clock
from ..ops.knobs import WIDTH as KNOBS
from ..ops.nearness import is_near
from ..ops.plan import FIRST, PLANS, ROWS, follow_plan
from ..ops.residual_diff import largest_row_diff, residual_diff

LAST_SAMPLE = StateKey("sample")  # the state tensor that holds what the last step was given to denoise
NEAR = ValueKey("near")  # decided once a step, for all segments
FOLLOWED: tuple[ValueKind, ...] = ("hit", "record", "row", "follows")  # what `follow_plan` returns
LOG_CAPACITY = 1024  # steps of one trajectory whose hits and diffs are kept for `stats()`


def insert_cache_check(program: Program) -> Program:
    """Each front also returns `now`, `hit`, `record` and the residual; adds the state that needs.

    Takes a partition, and adds to a copy of it. Ensures that every segment has a decision, a 0-dim bool. The
    state: `clock_i` [4, WIDTH] float64, `log_i` [2, 1024] float32, `knobs_i` [1028] float64, `previous_i`
    like the residual, and `sample_0` like the sample; of plans `plan_i` [4, 257, 3 + k] and `fits_i` [4],
    both float64, instead of knobs. What is in `knobs_i` and `plan_i` may be exchanged between runs.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.passes.partition import partition
        >>> from fxcache.passes.insert_cache_check import insert_cache_check
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> program = insert_cache_check(partition(cached.graph.program.replace(state=())))
        >>> [tensor.name for tensor in program.state]
        ['clock_0', 'log_0', 'sample_0', 'previous_0', 'knobs_0']
        >>> list(program.partition.trunks[0].builder.outputs)
        ['layers_0', 'now_0', 'residual_0', 'hit_0', 'record_0']
    """
    assert program.partition is not None
    program = program.replace(partition=program.partition.copy())
    assert program.partition is not None
    state: list[StateTensor] = []
    sample = sample_node(program)
    for index, trunk in enumerate(program.partition.trunks[:-1]):
        state += _insert(program, trunk, index, sample)
    return program.replace(state=(*program.state, *state))


def sample_node(program: Program) -> Node | None:
    """The graph's input that holds what is denoised; None for a model without one.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.passes.insert_cache_check import sample_node
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> sample_node(cached.graph.program)
        src
    """
    capture = program.capture
    sample = Roles.of(capture, program.timestep).sample
    return None if sample is None else capture.graph.graph.find_nodes(op="placeholder")[sample]


def _insert(program: Program, trunk: Trunk, index: int, sample: Node | None) -> list[StateTensor]:
    assert program.partition is not None
    config, builder = program.config, trunk.builder
    device = program.main_value.device  # state lives where the blocks run
    height = len(initial_clock())
    name = StateKey("clock", index).name
    clock = StateTensor(name, (height, WIDTH), torch.float64, device, initial_clock())
    log = StateTensor(StateKey("log", index).name, (2, LOG_CAPACITY), torch.float32, device)
    state = [clock, log]

    near: Node | None = None
    if sample is not None and index == 0:  # by the time of the next segment the sample is the last one
        last = StateTensor.like(LAST_SAMPLE.name, sample.meta["val"])
        state.append(last)
        near = builder.call(is_near, builder.input(sample.name, sample), builder.state(last), named="near")
        if len(program.segments) > 1:
            builder.outputs[NEAR.name] = near
    elif sample is not None:
        near = builder.input(NEAR.name, program.partition.trunks[0].builder.outputs[NEAR.name])
    clock_node = builder.state(clock)
    if program.timestep is None:
        now = builder.call(continue_step, clock_node, near, named="now")
    else:
        time = _placeholder(program, program.timestep)
        timestep = builder.input(time.name, time)
        now = builder.call(begin_step, clock_node, timestep, near, named="now")

    builder.outputs[ValueKey("now", index).name] = now
    if config.plans:
        return state + _decide_by_plan(builder, now, config, index, device)
    return state + _decide_by_diff(trunk, now, config, index, device)


def _decide_by_plan(
    builder: StageBuilder, now: Node, config: CacheConfig, index: int, device: torch.device
) -> list[StateTensor]:
    """The decision of plans: no look at what the model computes."""
    shape = (PLANS, ROWS, FIRST + config.values)
    plan = StateTensor(StateKey("plan", index).name, shape, torch.float64, device, settings_rows(config))
    fits = StateTensor(StateKey("fits", index).name, (PLANS,), torch.float64, device)
    followed = builder.call(follow_plan, now, builder.state(fits), builder.state(plan))
    for place, kind in enumerate(FOLLOWED):
        item = builder.call(operator.getitem, followed, place, named=kind)
        builder.outputs[ValueKey(kind, index).name] = item
    return [plan, fits]


def _decide_by_diff(
    trunk: Trunk, now: Node, config: CacheConfig, index: int, device: torch.device
) -> list[StateTensor]:
    """DBCache's decision, by how far the front residual moved, within the limits that the knobs set."""
    builder = trunk.builder
    state: list[StateTensor] = []
    diff = None
    if trunk.residual is not None:
        previous = StateTensor.like(StateKey("previous", index).name, trunk.residual.meta["val"])
        state.append(previous)
        measure = residual_diff if config.batch == "mean" else largest_row_diff
        diff = builder.call(measure, trunk.residual, builder.state(previous), named="diff")
        builder.outputs[ValueKey("residual", index).name] = trunk.residual
    name, shape = StateKey("knobs", index).name, (KNOBS,)
    knobs = StateTensor(name, shape, torch.float64, device, settings_rows(config))
    state.append(knobs)
    check = builder.call(cache_check, now, diff, builder.state(knobs))
    builder.outputs[ValueKey("hit", index).name] = builder.call(operator.getitem, check, 0, named="hit")
    builder.outputs[ValueKey("record", index).name] = builder.call(operator.getitem, check, 1, named="record")
    return state


def _placeholder(program: Program, timestep: str) -> Node:
    """The graph input that carries the timestep."""
    nodes = program.capture.graph.graph.find_nodes(op="placeholder")
    return nodes[program.capture.inputs.index(timestep)]
