"""The blocks of a model as passes see them: calls in a chain, and the segments that they fall into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch.fx import Node


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
