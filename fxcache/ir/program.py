"""The program: what is known of a model's cached graph, one thing more after each pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import GraphModule, Node

from ..config import CacheConfig
from .blocks import Block, Segment
from .captured import Capture
from .ranks import RankGroup
from .stage import Stage
from .stage_builder import StageBuilder
from .state import StateTensor


@dataclass(frozen=True)
class Trunk:
    """A stage that every step runs, still open for nodes to be added.

    signal: what the policy looks at in it, the front residual of the segment that follows or the first norm;
        None where there is none.
    number: what has to be below the threshold for a hit; None where nothing is measured.
    whole: why the signal is the stream itself rather than what the front adds to it; None where it is not.
    """

    builder: StageBuilder
    signal: Node | None
    number: Node | None = None
    whole: str | None = None

    def copy(self) -> Trunk:
        """Another one, to which nodes can be added without changing this."""
        builder, nodes = self.builder.copy()
        signal, number = (None if node is None else nodes[node] for node in (self.signal, self.number))
        return dataclasses.replace(self, builder=builder, signal=signal, number=number)


@dataclass(frozen=True)
class Middle:
    """The two ways through a segment's middle, still open for nodes to be added.

    outputs: values of the captured graph that the middle gives to what follows.
    skeletons: for each output's name, its skeleton's node in `compute` and in `skip`, or None where it
        has none and the value itself is cached. whole: why it has none, by name.
    """

    compute: StageBuilder
    skip: StageBuilder
    outputs: tuple[Node, ...]
    skeletons: Mapping[str, tuple[Node, Node] | None]
    whole: Mapping[str, str] = field(default_factory=dict)

    def copy(self) -> Middle:
        """Another one, to which nodes can be added without changing this."""
        (compute, in_compute), (skip, in_skip) = self.compute.copy(), self.skip.copy()
        skeletons = {
            name: None if pair is None else (in_compute[pair[0]], in_skip[pair[1]])
            for name, pair in self.skeletons.items()
        }
        return dataclasses.replace(self, compute=compute, skip=skip, skeletons=skeletons)


@dataclass(frozen=True)
class Partition:
    """All stages of a program: one more trunk than middles."""

    trunks: tuple[Trunk, ...]
    middles: tuple[Middle, ...]

    def copy(self) -> Partition:
        """Another one: a pass adds nodes to a copy, as what it was given stays what it is."""
        return Partition(tuple(t.copy() for t in self.trunks), tuple(m.copy() for m in self.middles))


@dataclass(frozen=True)
class Program:
    """Everything known about a model's cached graph so far, in the order in which passes add it.

    beside: calls of the modules of the chain that are not in it: a block that is run on two inputs, say.
    regions: node of the captured graph → 2j for the trunk before segment j, 2j + 1 for its middle.
    partition: the stages under construction; `stages` are the finished ones, by name.
    assumed: equalities of sizes, beyond the capture's guards, that passes relied on.
    state: what is remembered between steps, in the order in which the graph takes it.
    graph: the outer graph; takes the flat inputs and then the state.
    by_class: blocks may be any modules of one class that are called repeatedly. among: names of the leaves
    that may be blocks then; of all, where it is empty. named: blocks that a person named, and their lists.
    notes: what passes decided against, and why, in words.
    groups: ranks that take each decision together; none where there is one process.
    """

    capture: Capture
    config: CacheConfig
    scope: str
    timestep: str | None
    chain: tuple[Block, ...] = ()
    beside: tuple[Block, ...] = ()
    segments: tuple[Segment, ...] = ()
    regions: Mapping[Node, int] = field(default_factory=dict)
    partition: Partition | None = None
    stages: Mapping[str, Stage] = field(default_factory=dict)
    assumed: tuple[Any, ...] = ()
    state: tuple[StateTensor, ...] = ()
    graph: GraphModule | None = None
    by_class: bool = False
    among: frozenset[str] = frozenset()
    named: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    groups: tuple[RankGroup, ...] = ()

    @property
    def main_value(self) -> Any:
        """The traced value that tells where, and in which dtype, the model computes: the primary stream of
        its first block, or its first output."""
        if self.chain and self.chain[0].primary is not None:
            return self.chain[0].primary.meta["val"]
        return self.output_values()[0].meta["val"]

    @property
    def needs_chain(self) -> bool:
        """Whether the blocks matter: not where the output is cached and a hit runs none of them."""
        return self.config.level != "output" or self.config.fn_compute_blocks > 0 or self.looks_at_norm

    @property
    def looks_at_norm(self) -> bool:
        """Whether steps are decided by what the first block's first projection is given."""
        return self.config.policy.signal == "norm" and not self.config.plans

    def output_values(self) -> list[Node]:
        """The tensors that the captured graph returns, each once."""
        given: Any = self.capture.graph.graph.output_node().args[0]
        nodes = dict.fromkeys(n for n in given if isinstance(n, Node))
        return [n for n in nodes if isinstance(n.meta.get("val"), torch.Tensor)]

    def replace(self, **changes: Any) -> Program:
        return dataclasses.replace(self, **changes)
