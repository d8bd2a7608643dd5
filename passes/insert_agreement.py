"""Let ranks decide together: what is measured is measured of the whole sample, or they take a vote.

Where there is one process nothing is inserted.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import Node

from ..errors import ConfigError
from ..ir.dataflow import ancestors, order_by_dependency
from ..ir.keys import StateKey, ValueKey
from ..ir.program import Middle, Program, Trunk
from ..ir.ranks import named
from ..ir.settings import initial_rows
from ..ir.state import StateTensor
from ..ops.agreement import (
    Groups,
    LearnTogether,
    both,
    change_share,
    gather_shares,
    largest_whole,
    mean_change_share,
    near_share,
    near_together,
    row_shares,
    time_share,
    unanimous,
    whole,
)
from ..ops.clock import begin_step
from ..ops.nearness import is_near
from ..ops.residual_diff import largest_row_diff, mean_change, residual_diff
from ..policies import Policy

Op = Callable[..., Tensor]
# How far a signal moved: this rank's share of it, and what the sums of all shares say.
CHANGES: dict[Op, tuple[Op, Op]] = {
    residual_diff: (change_share, whole),
    mean_change: (mean_change_share, whole),
    largest_row_diff: (row_shares, largest_whole),
}


def insert_agreement(program: Program) -> Program:
    """Put collectives before what ranks must know alike: the step, how far the signal moved, the decision.

    Takes complete branches, and adds to a copy of the partition. Ensures that no decision depends on what one
    rank alone sees. Of ranks that hold parts of one sample, the shares of all measurements, the time and the
    clock are gathered once a step (twice for a policy that measures by the time); where their clocks or
    their settings differ, all begin anew, and compute. Of ranks with samples of their own, a step is a hit
    where it is one for each. The state: `digest_i` [1] float32, of the former.

    Raises:
        ConfigError: the policy's view of the sample cannot be taken of parts of it.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.passes.insert_agreement import insert_agreement
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> program = cached.graph.program
        >>> insert_agreement(program) is program  # one process
        True
    """
    if not program.groups:
        return program
    assert program.partition is not None
    program = program.replace(partition=program.partition.copy())
    assert program.partition is not None
    parts, each = named(program.groups, "parts"), named(program.groups, "each")
    state: list[StateTensor] = []
    trunks = [*program.partition.trunks]
    for index, trunk in enumerate(trunks[:-1]):
        if parts:
            _refuse_view(program)
            agreement = _Agreement(program, trunk, index, parts)
            trunks[index] = agreement.insert()
            state.append(agreement.digest)
            _learn_together(program.partition.middles[index], program.config.policy, parts)
        if each:
            _vote(trunks[index], index, each)
    partition = dataclasses.replace(program.partition, trunks=tuple(trunks))
    return program.replace(partition=partition, state=(*program.state, *state))


def _refuse_view(program: Program) -> None:
    policy = program.config.policy
    if type(policy).view is not Policy.view and not program.config.plans:
        need = (
            "looks at the whole sample, of which each process has a part; take one that needs no view of it"
        )
        raise ConfigError("policy", policy, need)


@dataclasses.dataclass(frozen=True)
class _Gathered:
    """What all ranks measured: the sums of the shares, where each begins, and whether the ranks are level."""

    sums: Node
    same: Node
    places: dict[str, int]

    def __contains__(self, share: str) -> bool:
        return share in self.places


class _Agreement:
    """Of one front: its measurements become shares, and what depends on them waits for the sums."""

    def __init__(self, program: Program, trunk: Trunk, index: int, groups: Groups) -> None:
        self.trunk, self.builder, self.groups = trunk, trunk.builder, groups
        name, device = StateKey("digest", index).name, program.main_value.device
        self.digest = StateTensor(name, (1,), torch.float32, device, initial_rows(name, program.config))
        self.leader = StateKey("leader", index).name
        self.now = self.builder.outputs[ValueKey("now", index).name]
        self.near = next((n for n in self.builder.graph.nodes if n.target is is_near), None)
        self.change = next((n for n in self.builder.graph.nodes if n.target in CHANGES), None)

    def insert(self) -> Trunk:
        builder, now, near, change = self.builder, self.now, self.near, self.change
        shares: dict[str, Node] = {}
        if near is not None:
            shares["near"] = builder.call(near_share, *near.args, named="nearness")
        if now.target is begin_step:
            shares["time"] = builder.call(time_share, now.args[1], named="time")
        if change is not None:
            share, read = CHANGES[change.target]  # type: ignore[index]
            shares["change"] = builder.call(share, *change.args, named="share")
        # A forecast is of a time that must be known before: then the change is gathered by itself.
        late = {"change": shares.pop("change")} if change and now in ancestors([change]) else {}
        gathered = self._gather(shares, [self.digest.name, self.leader])
        replaced = self._agree_on_step(gathered)
        if change is not None:
            found = self._gather(late, []) if late else gathered
            replaced[change] = builder.call(read, found.sums, found.places["change"], named="of_all")
        for old, new in replaced.items():
            old.replace_all_uses_with(new)
            builder.graph.erase_node(old)
        builder.outputs.update({k: replaced[n] for k, n in builder.outputs.items() if n in replaced})
        order_by_dependency(builder.graph)
        number = self.trunk.number
        return dataclasses.replace(self.trunk, number=replaced.get(number, number) if number else None)

    def _gather(self, shares: Mapping[str, Node], others: Sequence[str]) -> _Gathered:
        builder, places, place = self.builder, dict[str, int](), 0
        for name in shares:
            places[name] = place
            place += 2  # but for those of rows, which are the last
        builder.state(self.digest)
        state = [builder.inputs[name] for name in others if name in builder.inputs]
        found = builder.call(
            gather_shares, [*shares.values()], self.now.args[0], state, self.groups, named="gathered"
        )
        sums = builder.call(operator.getitem, found, 0, named="sums")
        return _Gathered(sums, builder.call(operator.getitem, found, 1, named="same"), places)

    def _agree_on_step(self, gathered: _Gathered) -> dict[Node, Node]:
        """Let the clock tell of the mean time and the samples of all ranks; where these stand apart, anew."""
        builder, now, replaced = self.builder, self.now, dict[Node, Node]()
        near = now.args[-1]
        if self.near is not None:
            place = gathered.places["near"]
            agreed = builder.call(near_together, gathered.sums, place, gathered.same, named="near_together")
            replaced[self.near] = agreed
        elif isinstance(near, Node):  # decided before the segment before
            agreed = builder.call(both, near, gathered.same, named="near_together")
        else:
            agreed = gathered.same
        middle = now.args[1:-1]
        if "time" in gathered:
            middle = (builder.call(whole, gathered.sums, gathered.places["time"], named="mean_time"),)
        now.args = (now.args[0], *middle, agreed)
        return replaced


def _learn_together(middle: Middle, policy: Policy, groups: Groups) -> None:
    if policy.learns:
        for node in middle.compute.graph.nodes:
            if node.target == policy.learn:
                node.target = LearnTogether(policy.learn, groups).learn_together


def _vote(trunk: Trunk, index: int, groups: Groups) -> None:
    builder, name = trunk.builder, ValueKey("hit", index).name
    builder.outputs[name] = builder.call(unanimous, builder.outputs[name], groups, named="unanimous")
