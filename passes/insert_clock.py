"""Insert what tells where a trajectory stands: the step's number, and whether a new trajectory begins."""

from __future__ import annotations

import torch
from torch.fx import Node

from ..ir.keys import StateKey, ValueKey
from ..ir.program import Program, Trunk
from ..ir.roles import Roles
from ..ir.state import StateTensor
from ..ops.clock import WIDTH, begin_step, continue_step, initial_clock
from ..ops.cond import store
from ..ops.nearness import is_near

LAST_SAMPLE = StateKey("sample")  # the state tensor that holds what the last step was given to denoise
NEAR = ValueKey("near")  # decided once a step, for all segments
LOG_CAPACITY = 1024  # steps of one trajectory whose hits and diffs are kept for `stats()`


def insert_clock(program: Program) -> Program:
    """Each front also returns `now`, the live row of its clock; adds the state that needs.

    Takes a partition, and adds to a copy of it. Ensures that every segment knows its step, and that the
    sample is remembered. The state:
    `clock_i` [4, WIDTH] float32, `log_i` [2, 1024] float32, and `sample_0` like the sample.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.passes.insert_clock import insert_clock
        >>> from fxcache.passes.partition import partition
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> program = insert_clock(partition(cached.graph.program.replace(state=())))
        >>> [tensor.name for tensor in program.state]
        ['clock_0', 'log_0', 'sample_0']
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
        >>> from fxcache.passes.insert_clock import sample_node
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
    builder = trunk.builder
    device = program.main_value.device  # state lives where the blocks run
    height = len(initial_clock())
    name = StateKey("clock", index).name
    clock = StateTensor(name, (height, WIDTH), torch.float32, device, initial_clock())
    log = StateTensor(StateKey("log", index).name, (2, LOG_CAPACITY), torch.float32, device)
    state = [clock, log]

    near: Node | None = None
    if sample is not None and index == 0:  # by the time of the next segment the sample is the last one
        last = StateTensor.like(LAST_SAMPLE.name, sample.meta["val"])
        state.append(last)
        middle = program.partition.middles[0]
        for branch in (middle.compute, middle.skip):
            branch.call(store, branch.state(last), branch.input(sample.name, sample))
        near = builder.call(is_near, builder.input(sample.name, sample), builder.state(last), named="near")
        near = builder.on(near, device)
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
    return state


def _placeholder(program: Program, timestep: str) -> Node:
    """The graph input that carries the timestep."""
    nodes = program.capture.graph.graph.find_nodes(op="placeholder")
    return nodes[program.capture.inputs.index(timestep)]
