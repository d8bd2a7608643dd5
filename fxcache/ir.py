"""The vocabulary that the passes share: blocks, streams, segments, stages, and the program.

A *program* starts as a captured graph; each pass returns it with one thing more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch.fx import GraphModule, Node

if TYPE_CHECKING:
    from .capture import Capture
    from .config import CacheConfig
    from .stagebuilder import StageBuilder
    from .state import StateTensor


@dataclass(frozen=True)
class Block:
    """One call in the chain.

    carries: each output value that continues a stream → the input value that it continues. Replacing
        the block by the identity means replacing the former by the latter.
    primary: the output value of the primary stream, the one that carries the signal.
    """

    node: Node
    name: str
    module_list: str
    kind: type
    parameters: int
    carries: Mapping[Node, Node] = field(default_factory=dict)
    primary: Node | None = None


@dataclass(frozen=True)
class Segment:
    """Consecutive blocks with one decision: Fn front blocks, the middle, Bn back blocks."""

    index: int
    blocks: tuple[Block, ...]
    fn: int
    bn: int

    @property
    def middle(self) -> tuple[Block, ...]:
        return self.blocks[self.fn : len(self.blocks) - self.bn]


@dataclass(frozen=True)
class Stage:
    """A part of the graph that runs as a whole.

    inputs: what it takes, by name of the value in the captured graph or of the state tensor.
    outputs: what it gives, likewise; the graph module returns a tuple in this order.
    """

    name: str
    graph: GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Trunk:
    """A stage that every step runs, still open for nodes to be added.

    residual: the front residual of the segment that follows, the signal; None where there is none.
    """

    builder: StageBuilder
    residual: Node | None


@dataclass(frozen=True)
class Middle:
    """The two ways through a segment's middle, still open for nodes to be added.

    outputs: values of the captured graph that the middle gives to what follows.
    skeletons: for each output's name, its skeleton's node in `compute` and in `skip`, or None where it
        has none and the value itself is cached.
    """

    compute: StageBuilder
    skip: StageBuilder
    outputs: tuple[Node, ...]
    skeletons: Mapping[str, tuple[Node, Node] | None]


@dataclass(frozen=True)
class Partition:
    """All stages of a program: one more trunk than middles."""

    trunks: tuple[Trunk, ...]
    middles: tuple[Middle, ...]


@dataclass(frozen=True)
class Program:
    """Everything known about a model's cached graph so far, in the order in which passes add it.

    beside: calls of the modules of the chain that are not in it: a block that is run on two inputs, say.
    regions: node of the captured graph → 2j for the trunk before segment j, 2j + 1 for its middle.
    partition: the stages under construction; `stages` are the finished ones, by name.
    assumed: equalities of sizes, beyond the capture's guards, that pairing streams relied on.
    state: what is remembered between steps, in the order in which the graph takes it.
    graph: the outer graph; takes the flat inputs and then the state.
    by_class: blocks may be any modules of one class that are called repeatedly. among: names of the leaves
    that may be blocks then; of all, where it is empty.
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

    def replace(self, **changes: Any) -> Program:
        return dataclasses.replace(self, **changes)
