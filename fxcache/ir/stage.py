"""A stage: a part of the cached graph that runs as a whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node


@dataclass(frozen=True)
class Stage:
    """A part of the graph that runs as a whole.

    inputs: what it takes, by name of the value in the captured graph or of the state tensor.
    outputs: what it returns, likewise; the graph module returns a tuple in this order.
    """

    name: str
    graph: GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def returned(self) -> list[Any]:
        """What it gives, as the fake tensors that describe it."""
        given: Any = self.graph.graph.output_node().args[0]
        return [value.meta["val"] if isinstance(value, Node) else value for value in given]
