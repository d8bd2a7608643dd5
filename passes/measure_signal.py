"""Insert what the policy looks at: how far its signal moved, and the number that it makes of that."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any, Literal

import sympy
import torch
from torch import Tensor
from torch.fx import Node

from ..errors import ConfigError
from ..forecasters import Forecaster
from ..ir.keys import StateKey, ValueKey, ValueKind
from ..ir.method import Method
from ..ir.program import Middle, Program, Trunk
from ..ir.settings import initial_rows
from ..ir.stage_builder import StageBuilder
from ..ir.state import StateTensor
from ..ops.clock import computed_steps, times
from ..ops.cond import store
from ..ops.history import by_slot, remember, weighted_sum
from ..ops.leader import leaders_change
from ..ops.memory import keep, memory_rows, nothing, recall
from ..ops.residual_diff import largest_row_diff, mean_change, residual_diff
from ..policies import Decision, Policy, progress
from .insert_clock import LAST_SAMPLE, sample_node


def measure_signal(program: Program) -> Program:
    """Fill `number` of every trunk before a segment, and let both branches remember what that needs.

    Takes clocks, and adds to a copy of the partition. Ensures that what a policy compares with is stored when
    it must be. The state: `previous_i`, of the shape of what is compared, or a history of that; `policy_i`
    [numbers], what may be exchanged of the policy between runs; `memory_i` [2, numbers], what it remembers
    and what a trajectory begins with; all float32 but the first, and each only where the policy has it. Of a
    context that follows another, `leader_i`, like the live row of a clock, instead.

    Raises:
        ConfigError: the model has nothing that the policy could look at.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.passes.insert_clock import insert_clock
        >>> from fxcache.passes.measure_signal import measure_signal
        >>> from fxcache.passes.partition import partition
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> config = fxcache.CacheConfig(fn_compute_blocks=1, policy=fxcache.Budget())
        >>> cached = fxcache.transform(model, config, example_inputs=inputs)
        >>> program = insert_clock(partition(cached.graph.program.replace(state=())))
        >>> [tensor.name for tensor in measure_signal(program).state[3:]]
        ['previous_0', 'memory_0']
    """
    assert program.partition is not None
    program = program.replace(partition=program.partition.copy())
    assert program.partition is not None
    if program.config.plans:  # nothing is measured
        return program
    state: list[StateTensor] = []
    assumed = [*program.assumed]
    trunks = [*program.partition.trunks]
    for index, trunk in enumerate(trunks[:-1]):
        measured = _Measurement(
            program, trunk, program.partition.middles[index], index, trunks[0], state, assumed
        )
        trunks[index] = dataclasses.replace(trunk, number=measured.number())
    partition = dataclasses.replace(program.partition, trunks=tuple(trunks))
    return program.replace(
        partition=partition, state=(*program.state, *state), assumed=tuple(dict.fromkeys(assumed))
    )


@dataclasses.dataclass(frozen=True)
class _Measurement:
    """The number of one segment. What it remembers is added to `state`, what sizes it needs to `assumed`."""

    program: Program
    trunk: Trunk
    middle: Middle
    index: int
    first: Trunk
    state: list[StateTensor]
    assumed: list[Any]

    @property
    def policy(self) -> Policy:
        return self.program.config.policy

    @property
    def now(self) -> Node:
        return self.trunk.builder.outputs[ValueKey("now", self.index).name]

    def number(self) -> Node | None:
        change = self._change()
        if change is None and self.policy.signal != "none":  # a static mask decides
            return None
        return self._decide(change) if self.policy.decides else change

    def _change(self) -> Node | None:
        """How far the signal moved."""
        builder, policy = self.trunk.builder, self.policy
        if policy.signal == "none":
            return None
        if policy.signal == "leader":
            return self._of_leader()
        if policy.signal != "sample":
            return None if self.trunk.signal is None else self._compare(self.trunk.signal)
        key = ValueKey("change")  # by the time of the next segment the sample is the last one
        if self.index == 0:
            sample = sample_node(self.program)
            if sample is None:
                raise ConfigError(
                    "policy", policy, "needs an input that is denoised, and this model has none"
                )
            change = self._compare(builder.input(sample.name, sample))
            if len(self.program.segments) > 1:
                builder.outputs[key.name] = change
            return change
        return builder.input(key.name, self.first.builder.outputs[key.name])

    def _of_leader(self) -> Node:
        """What the leader did at this step. The runtime tells it, and knows the step by what is denoised."""
        builder, row = self.trunk.builder, self.now.meta["val"]
        if sample_node(self.program) is None:
            need = "needs an input that is denoised, and this model has none: leave `follow` out"
            raise ConfigError("policy", self.policy, need)
        told = StateTensor.like(StateKey("leader", self.index).name, row)
        self.state.append(told)
        return builder.call(leaders_change, self.now, builder.state(told), named="followed")

    def _compare(self, signal: Node) -> Node:
        builder, policy, index = self.trunk.builder, self.policy, self.index
        value, kind = signal, self._kind()
        if type(policy).view is not Policy.view:
            if self.program.timestep is None:
                raise ConfigError("policy", policy, "needs a timestep, and this model takes none")
            self._fix_sizes(signal)
            at = builder.call(progress, self.now, named="at")
            value = builder.call(policy.view, signal, at, named="view")
        elif policy.signal == "sample" and policy.against == "last":
            last = builder.state(StateTensor.like(LAST_SAMPLE.name, signal.meta["val"]))
            return self._beside_clock(builder.call(self._measure(), signal, last, named="change"))
        slots = None
        if policy.against == "forecast":
            slots = Method.of(self.program.config).values
        name = StateKey("previous", index).name
        previous = StateTensor.like(name, value.meta["val"], slots=slots)
        self.state.append(previous)
        handed = ValueKey(kind if value is signal else "view", index)
        builder.outputs[handed.name] = value
        self._remember(previous, handed, value)
        before = builder.state(previous)
        if policy.against == "forecast":
            before = self._forecast(before)
        return self._beside_clock(builder.call(self._measure(), value, before, named="diff"))

    def _beside_clock(self, change: Node) -> Node:
        return self.trunk.builder.on(change, self.program.main_value.device)

    def _kind(self) -> ValueKind:
        """As what the signal is handed on."""
        return "residual" if self.policy.signal == "residual" else "norm" if self.trunk.signal else "view"

    def _fix_sizes(self, signal: Node) -> None:
        """Let the graph be for the sizes that the policy's view of the signal needs."""
        shape = signal.meta["val"].shape
        for dimension, size in self.policy.fixed_sizes(len(shape)).items():
            given = shape[dimension]
            if (given.node.hint if isinstance(given, torch.SymInt) else given) != size:
                need = f"is for {size} along dimension {dimension} of '{signal.name}', which has another size"
                raise ConfigError("policy", self.policy, need)
            if isinstance(given, torch.SymInt):
                self.assumed.append(sympy.Eq(given.node.expr, size))

    def _measure(self) -> Callable[[Tensor, Tensor], Tensor]:
        if not self.policy.relative:
            return mean_change
        return residual_diff if self.program.config.batch == "mean" else largest_row_diff

    def _remember(self, previous: StateTensor, handed: ValueKey, value: Node) -> None:
        """Store the value where it will be compared with."""
        compute, skip = self.middle.compute, self.middle.skip
        if self.policy.against == "forecast":
            now = ValueKey("now", self.index).name
            computed = compute.call(computed_steps, compute.input(now, self.now), named="computed_fronts")
            compute.call(remember, compute.state(previous), compute.input(handed.name, value), computed)
            return
        for builder in (compute, skip) if self.policy.against == "last" else (compute,):
            builder.call(store, builder.state(previous), builder.input(handed.name, value))

    def _forecast(self, history: Node) -> Node:
        """What the config's forecaster expects of the signal."""
        builder, forecaster = self.trunk.builder, Method.of(self.program.config).forecaster
        assert forecaster is not None
        if forecaster.snapshots == 1:
            return builder.call(weighted_sum, history, named="expected")
        return builder.call(
            weighted_sum, history, slot_weights(builder, forecaster, self.now), named="expected"
        )

    def _decide(self, change: Node | None) -> Node:
        """The policy's own number."""
        builder, policy, index = self.trunk.builder, self.policy, self.index
        device = self.program.main_value.device
        (row,) = rows = initial_rows(StateKey("policy", index).name, self.program.config)
        if row:
            tensor = StateTensor(StateKey("policy", index).name, (len(row),), torch.float32, device, rows)
            self.state.append(tensor)
            numbers = builder.state(tensor)
        else:
            numbers = builder.call(nothing, self.now, named="no_numbers")
        memory = memory_of(self.program, index)
        if memory is not None:
            self.state.append(memory)
            remembered = builder.call(recall, builder.state(memory), self.now, named="remembered")
        else:
            remembered = builder.call(nothing, self.now, named="no_memory")
        at = builder.call(progress, self.now, named="at")
        decision = builder.call(policy.decide, change, remembered, numbers, at, named="decision")
        number = builder.call(operator.getitem, decision, 0, named="number")
        if memory is not None:
            self._keep(memory, self.middle.skip, "if_hit", decision)
            if not policy.learns:  # else what it learns of the step is remembered
                self._keep(memory, self.middle.compute, "if_computed", decision)
        return number

    def _keep(
        self,
        memory: StateTensor,
        builder: StageBuilder,
        kind: Literal["if_hit", "if_computed"],
        decision: Node,
    ) -> None:
        key, place = ValueKey(kind, self.index), Decision._fields.index(kind)
        item = self.trunk.builder.call(operator.getitem, decision, place, named=kind)
        self.trunk.builder.outputs[key.name] = item
        builder.call(keep, builder.state(memory), builder.input(key.name, item))


def slot_weights(builder: StageBuilder, forecaster: Forecaster, now: Node) -> Node:
    """The forecaster's weights of what is remembered, by slot, at a step that begins with the clock's `now`.

    Example:
        >>> from fxcache.embedded import example_inputs, load_transformer
        >>> import fxcache
        >>> from fxcache.passes.measure_signal import slot_weights
        >>> cached = fxcache.transform(
        ...     load_transformer(), "F1B0_W4M0MC3_T1O1_R0.12", example_inputs=example_inputs(batch=1)
        ... )
        >>> builder, _ = cached.graph.program.partition.trunks[0].builder.copy()
        >>> slot_weights(builder, fxcache.TaylorSeer(order=2), builder.outputs["now_0"]).meta["val"].shape
        torch.Size([3])
    """
    when = builder.call(times, now, forecaster.distance, named="when")
    weights = builder.call(forecaster.weights, when, named="latest_first")
    return builder.call(by_slot, weights, builder.call(computed_steps, now), named="weights")


def memory_of(program: Program, index: int) -> StateTensor | None:
    """The state tensor of what the policy remembers of a segment; None where it remembers nothing.

    Example:
        >>> import fxcache
        >>> from fxcache.embedded import example_inputs, load_transformer
        >>> from fxcache.passes.measure_signal import memory_of
        >>> config = fxcache.CacheConfig(fn_compute_blocks=1, policy=fxcache.Budget())
        >>> cached = fxcache.transform(load_transformer(), config, example_inputs=example_inputs(batch=1))
        >>> memory_of(cached.graph.program, 0).name
        'memory_0'
    """
    start = program.config.policy.memory
    if not start:
        return None
    rows, device = memory_rows(start), program.main_value.device
    return StateTensor(StateKey("memory", index).name, (len(rows), len(start)), torch.float32, device, rows)
