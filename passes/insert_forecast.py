"""Insert what a computed step remembers and what a hit replays, for every output of every middle."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.fx import Node

from ..forecasters import Forecaster, Reuse
from ..ir.keys import HistoryKey, StateKey, ValueKey
from ..ir.program import Middle, Program, Trunk
from ..ir.stage_builder import StageBuilder
from ..ir.state import StateTensor
from ..ops.clock import commit_hit, commit_miss, computed_steps, log_step, times
from ..ops.cond import materialize, store
from ..ops.history import by_slot, remember, weighted_sum
from .insert_cache_check import LAST_SAMPLE, sample_node

REUSE = Reuse()


def insert_forecast(program: Program) -> Program:
    """Complete both branches of every segment; adds the histories to the state.

    Takes decisions, and adds to a copy of the partition. Ensures that a hit returns all that a computed step
    does, and runs no block; either counts and logs the step. The history of a
    value is `<value>_history`, of shape [snapshots, ...].

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.passes.partition import partition
        >>> from fxcache.passes.insert_forecast import insert_forecast
        >>> from fxcache.passes.insert_cache_check import insert_cache_check
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> program = insert_cache_check(partition(cached.graph.program.replace(state=())))
        >>> [tensor.name for tensor in insert_forecast(program).state[4:]]  # TaylorSeer of order 1
        ['layers_2_history']
    """
    assert program.partition is not None
    program = program.replace(partition=program.partition.copy())
    assert program.partition is not None
    forecaster = program.config.forecaster or REUSE
    accumulate = program.config.max_accumulated_residual_diff is not None
    state: list[StateTensor] = []
    known = {tensor.name: tensor for tensor in program.state}
    sample = sample_node(program)
    if sample is not None:
        for builder in (program.partition.middles[0].compute, program.partition.middles[0].skip):
            builder.call(store, builder.state(known[LAST_SAMPLE.name]), builder.input(sample.name, sample))
    for index, middle in enumerate(program.partition.middles):
        state += _complete(middle, program.partition.trunks[index], forecaster, index, known, accumulate)
    return program.replace(state=(*program.state, *state))


def _complete(
    middle: Middle,
    trunk: Trunk,
    forecaster: Forecaster,
    index: int,
    known: Mapping[str, StateTensor],
    accumulate: bool,
) -> list[StateTensor]:
    compute, skip, decided = middle.compute, middle.skip, trunk.builder.outputs
    state: list[StateTensor] = []
    now, record = ValueKey("now", index).name, ValueKey("record", index).name
    weights = _weights(skip, forecaster, now, decided[now])
    computed = compute.call(computed_steps, compute.input(now, decided[now]), named="computed")
    for node in middle.outputs:
        history = _remember(middle, node, forecaster, computed, state)
        _replay(middle, node, forecaster, weights, history)
    if trunk.residual is not None:
        previous = compute.state(known[StateKey("previous", index).name])
        compute.call(store, previous, compute.input(ValueKey("residual", index).name, trunk.residual))
    clock, log = known[StateKey("clock", index).name], known[StateKey("log", index).name]
    for builder, hit in ((compute, False), (skip, True)):
        numbers = builder.state(clock)
        given = [builder.input(name, decided[name]) for name in (now, record)]
        builder.call(log_step, builder.state(log), given[0], float(hit), given[1])
        if hit:
            builder.call(commit_hit, numbers, *given, accumulate)
        else:
            builder.call(commit_miss, numbers, *given, forecaster.distance)
    return state


def _weights(builder: StageBuilder, forecaster: Forecaster, name: str, now: Node) -> Node | None:
    """The forecaster's weights, by slot; None where there is one slot."""
    if forecaster.snapshots == 1:
        return None
    position = builder.input(name, now)
    when = builder.call(times, position, forecaster.distance, named="when")
    weights = builder.call(forecaster.weights, when, named="latest_first")
    return builder.call(by_slot, weights, builder.call(computed_steps, position), named="weights")


def cached_whole(middle: Middle, node: Node, forecaster: Forecaster) -> str | None:
    """Why a tensor that the middle returns is cached itself, not its residual; None where the residual is.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.passes.insert_forecast import cached_whole
        >>> from fxcache import TaylorSeer
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> middle = cached.graph.program.partition.middles[0]
        >>> cached_whole(middle, middle.outputs[0], TaylorSeer(calibrate="hidden_states"))
        'the forecaster has calibrate="hidden_states"'
        >>> cached_whole(middle, middle.outputs[0], TaylorSeer()) is None
        True
    """
    dtype = node.meta["val"].dtype
    if not dtype.is_floating_point:
        return f"{dtype} has no differences to forecast"
    if forecaster.calibrate != "residual":
        return f'the forecaster has calibrate="{forecaster.calibrate}"'
    return middle.whole.get(node.name)


def _caches(middle: Middle, node: Node, forecaster: Forecaster) -> tuple[Forecaster, bool]:
    """The forecaster of an output, and whether it works on the residual."""
    method = forecaster if node.meta["val"].is_floating_point() else REUSE
    return method, cached_whole(middle, node, forecaster) is None


def _remember(
    middle: Middle, node: Node, forecaster: Forecaster, computed: Node, state: list[StateTensor]
) -> StateTensor | None:
    compute = middle.compute
    value = compute.outputs.pop(node.name)
    if not isinstance(node.meta["val"], torch.Tensor):  # a size: the skeleton's is the same
        compute.outputs[node.name] = value
        return None
    method, on_residual = _caches(middle, node, forecaster)
    skeletons = middle.skeletons[node.name]
    cached = (
        compute.call(torch.sub, value, skeletons[0], named="residual") if skeletons and on_residual else value
    )
    history = StateTensor.like(HistoryKey(node.name).name, node.meta["val"], slots=method.snapshots)
    state.append(history)
    compute.call(remember, compute.state(history), cached, computed)
    compute.outputs[node.name] = compute.call(materialize, value)
    return history


def _replay(
    middle: Middle, node: Node, forecaster: Forecaster, weights: Node | None, history: StateTensor | None
) -> None:
    skip, skeletons = middle.skip, middle.skeletons[node.name]
    if history is None:
        assert skeletons is not None
        skip.outputs[node.name] = skeletons[1]
        return
    method, on_residual = _caches(middle, node, forecaster)
    given = () if method.snapshots == 1 else (weights,)
    forecast = skip.call(weighted_sum, skip.state(history), *given, named="forecast")
    if skeletons and on_residual:
        forecast = skip.call(torch.add, skeletons[1], forecast)
    skip.outputs[node.name] = skip.call(materialize, forecast)
