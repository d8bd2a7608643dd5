"""Insert what a computed step remembers and what a hit replays, for every output of every middle."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping

import torch
from torch.fx import Node

from ..config import CacheConfig
from ..ir.keys import HistoryKey, StateKey, ValueKey
from ..ir.method import Method
from ..ir.program import Middle, Program, Trunk
from ..ir.stage_builder import StageBuilder
from ..ir.state import StateTensor
from ..ops.clock import commit_hit, commit_miss, computed_steps, log_step, run_of_hits, times
from ..ops.cond import materialize, store
from ..ops.feedback import error_degree, feedback_row, pay_back
from ..ops.history import by_slot, latest, remember, restored, weighted_sum, wide_sum
from ..ops.memory import keep
from ..ops.plan import own_weight, paid_weights, replay_weights
from .insert_clock import sample_node
from .measure_signal import memory_of, slot_weights


def insert_forecast(program: Program) -> Program:
    """Complete both branches of every segment; adds the histories to the state.

    Takes decisions, and adds to a copy of the partition. Ensures that a hit returns all that a computed step
    does, and runs no block; either counts and logs the step. The history of a value is `<value>_history`, of
    shape [values, ...].

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.passes import PASSES
        >>> from fxcache.passes.insert_forecast import insert_forecast
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> program = cached.graph.program.replace(state=())
        >>> for step in PASSES[4:8]:  # partition to insert_cache_check
        ...     program = step(program)
        >>> [tensor.name for tensor in insert_forecast(program).state[5:]]  # TaylorSeer of order 1
        ['layers_2_history']
    """
    assert program.partition is not None
    program = program.replace(partition=program.partition.copy())
    assert program.partition is not None
    state: list[StateTensor] = []
    known = {tensor.name: tensor for tensor in program.state}
    for index, middle in enumerate(program.partition.middles):
        if program.config.policy.learns and not program.config.plans:
            state.append(_learn(program, middle, index))
        state += _complete(middle, program.partition.trunks[index], program.config, index, known)
    return program.replace(state=(*program.state, *state))


def _learn(program: Program, middle: Middle, index: int) -> StateTensor:
    """Let a computed step remember what the policy learns of it, before its output enters the history."""
    assert program.partition is not None
    compute, policy = middle.compute, program.config.policy
    sample, memory = sample_node(program), memory_of(program, index)
    assert sample is not None and memory is not None
    output = next(node for node in middle.outputs if isinstance(node.meta["val"], torch.Tensor))
    given = StateTensor.like(StateKey("given", index).name, sample.meta["val"])
    history = _history(output, Method.of(program.config))
    now = ValueKey("now", index).name
    computed = compute.call(
        computed_steps,
        compute.input(now, program.partition.trunks[index].builder.outputs[now]),
        named="computed_before",
    )
    sampled, last = compute.input(sample.name, sample), compute.state(given)
    before = compute.call(latest, compute.state(history), computed, named="returned_before")
    before = _restored(compute, before, history, output, cast=True)
    returned, skeletons = compute.outputs[output.name], middle.skeletons[output.name]
    if skeletons is not None:
        skeleton = compute.on(skeletons[0], returned.meta["val"].device)
        returned = compute.call(torch.sub, returned, skeleton, named="residual_learned")
    beside = [compute.on(n, returned.meta["val"].device) for n in (computed, sampled, last)]
    learned = compute.call(policy.learn, beside[0], (*beside[1:],), (returned, before), named="learned")
    compute.call(keep, compute.state(memory), learned)
    compute.call(store, last, sampled)
    return given


def _complete(
    middle: Middle, trunk: Trunk, config: CacheConfig, index: int, known: Mapping[str, StateTensor]
) -> list[StateTensor]:
    compute, skip, decided = middle.compute, middle.skip, trunk.builder.outputs
    method = Method.of(config)
    state: list[StateTensor] = []
    now, record = ValueKey("now", index).name, ValueKey("record", index).name
    weights = _weights(skip, method, index, decided)
    computed = compute.call(computed_steps, compute.input(now, decided[now]), named="computed")
    paid = _feedback(compute, computed, method, index, decided, config) if method.feedback else None
    for node in middle.outputs:
        history = _remember(middle, node, method, computed, paid, state)
        _replay(middle, node, weights, history)
    clock, log = known[StateKey("clock", index).name], known[StateKey("log", index).name]
    distance = method.forecaster.distance if method.forecaster is not None else "step"
    accumulate = trunk.number is not None
    for builder, hit in ((compute, False), (skip, True)):
        if config.plans:
            follows = ValueKey("follows", index).name
            builder.call(
                store,
                builder.state(known[StateKey("fits", index).name]),
                builder.input(follows, decided[follows]),
            )
        numbers = builder.state(clock)
        given = [builder.input(name, decided[name]) for name in (now, record)]
        builder.call(log_step, builder.state(log), given[0], float(hit), given[1])
        if hit:
            builder.call(commit_hit, numbers, *given, accumulate)
        else:
            builder.call(commit_miss, numbers, *given, distance)
    return state


def _weights(builder: StageBuilder, method: Method, index: int, decided: Mapping[str, Node]) -> Node | None:
    """The weights of what is remembered, by slot; None where the only value is replayed as it is."""
    if method.forecaster is not None and method.values == 1:
        return None
    now = ValueKey("now", index).name
    position = builder.input(now, decided[now])
    if method.forecaster is None:
        row = ValueKey("row", index).name
        weights = builder.call(replay_weights, builder.input(row, decided[row]), named="latest_first")
        return builder.call(by_slot, weights, builder.call(computed_steps, position), named="weights")
    return slot_weights(builder, method.forecaster, position)


def _feedback(
    builder: StageBuilder,
    computed: Node,
    method: Method,
    index: int,
    decided: Mapping[str, Node],
    config: CacheConfig,
) -> tuple[Node, Node]:
    """Of a computed step: the weight of its own value, and those of what is remembered, by slot."""
    if method.forecaster is None:
        row = ValueKey("row", index).name
        given = builder.input(row, decided[row])
        own = builder.call(own_weight, given, named="own")
        weights = builder.call(paid_weights, given, named="paid_latest_first")
    else:
        now = ValueKey("now", index).name
        position = builder.input(now, decided[now])
        when = builder.call(times, position, method.forecaster.distance, named="when_paid")
        forecast = builder.call(method.forecaster.weights, when, named="forecast_weights")
        degree = error_degree(method.forecaster.order, config.level == "output")
        paid = builder.call(feedback_row, when, builder.call(run_of_hits, position), forecast, degree)
        own = builder.call(operator.getitem, paid, 0, named="own")
        weights = builder.call(operator.getitem, paid, 1, named="paid")
    return own, builder.call(by_slot, weights, computed, named="paid_weights")


def _remember(
    middle: Middle,
    node: Node,
    method: Method,
    computed: Node,
    paid: tuple[Node, Node] | None,
    state: list[StateTensor],
) -> StateTensor | None:
    compute = middle.compute
    value = compute.outputs.pop(node.name)
    if not isinstance(node.meta["val"], torch.Tensor):  # a size: the skeleton's is the same
        compute.outputs[node.name] = value
        return None
    skeletons, cached = middle.skeletons[node.name], value
    if skeletons is not None:
        skeleton = compute.on(skeletons[0], value.meta["val"].device)
        cached = compute.call(torch.sub, value, skeleton, named="residual")
    history = _history(node, method)
    state.append(history)
    remembered = compute.state(history)
    if paid is not None and _has_differences(node):
        own, weights = paid
        before = _restored(compute, remembered, history, node, cast=False)
        value = compute.call(pay_back, value, cached, before, weights, own, named="corrected")
    sized = () if skeletons is not None else (remembered,)  # as a hit, which knows no other size
    compute.outputs[node.name] = compute.call(materialize, value, *sized)
    compute.call(remember, remembered, cached, computed)
    return history


def _history(node: Node, method: Method) -> StateTensor:
    floating = _has_differences(node)
    found = StateTensor.like(HistoryKey(node.name).name, node.meta["val"], method.values if floating else 1)
    if not floating:
        return found
    device = torch.device("cpu") if method.offload else found.device
    return dataclasses.replace(found, dtype=method.dtype or found.dtype, device=device)


def _restored(builder: StageBuilder, value: Node, history: StateTensor, node: Node, cast: bool) -> Node:
    """What was remembered of `node`, where and, with `cast`, as the model computes."""
    like = node.meta["val"]
    dtype = like.dtype if cast and history.dtype != like.dtype else None
    if dtype is None and history.device == like.device:
        return value
    return builder.call(restored, value, like.device, dtype)


def _replay(middle: Middle, node: Node, weights: Node | None, history: StateTensor | None) -> None:
    skip, skeletons = middle.skip, middle.skeletons[node.name]
    if history is None:
        assert skeletons is not None
        skip.outputs[node.name] = skeletons[1]
        return
    given = (weights,) if weights is not None and _has_differences(node) else ()
    remembered = _restored(skip, skip.state(history), history, node, cast=False)
    like = node.meta["val"]
    if history.dtype != like.dtype:
        wide = skip.call(wide_sum, remembered, *given) if given else skip.call(weighted_sum, remembered)
        forecast = skip.call(restored, wide, like.device, like.dtype, named="forecast")
    else:
        forecast = skip.call(weighted_sum, remembered, *given, named="forecast")
    if skeletons is not None:
        forecast = skip.call(torch.add, skip.on(skeletons[1], like.device), forecast)
    elif not given:  # the state itself, which the next computed step writes to
        forecast = skip.call(torch.clone, forecast)
    skip.outputs[node.name] = skip.call(materialize, forecast)


def _has_differences(node: Node) -> bool:
    return bool(node.meta["val"].dtype.is_floating_point)
