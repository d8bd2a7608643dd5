"""A captured forward: the graph, and all that must be known to run it in place of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.fx import GraphModule

from ..environment.ambient_settings import Change
from ..environment.executed_code import ExecutedCode
from ..environment.final_write import Final
from ..environment.module_mutations import Effect
from ..environment.structure import Structure
from .dataflow import attribute_of
from .guards import ShapeGuards, ValueGuards


@dataclass(frozen=True)
class Capture:
    """A captured forward.

    graph: placeholders are the flat input tensors, the output is the flat tuple of output tensors.
    inputs: the name of each flat input; `output` rebuilds the model's own return value.
    how: "symbolic" (sizes free where the model allows), "static" (fake tensors, these sizes only) or
    "real" (these sizes, and `values` guards what the glue read).
    refused: why the ways tried before `how` did not work.
    effects: what the forward sets before it calls the leaves, to be in force while the graph runs.
    finals: what it leaves written; the tensors among that are outputs behind its own.
    code: what ran outside the leaves.
    written: (input, output) pairs: these outputs are what the forward writes to its inputs.
    settings: of torch, to be in force while the graph runs.
    numbers: which of the flat inputs stand for numbers.
    communicates: whether other processes have a part in the forward.
    """

    model: nn.Module
    graph: GraphModule
    inputs: tuple[str, ...]
    output: Structure
    leaves: Mapping[str, nn.Module]
    shapes: ShapeGuards
    values: ValueGuards | None
    how: str
    refused: Mapping[str, str] = field(default_factory=dict)
    effects: tuple[Effect, ...] = ()
    written: tuple[tuple[int, int], ...] = ()
    settings: tuple[Change, ...] = ()
    finals: tuple[Final, ...] = ()
    code: ExecutedCode = field(default_factory=ExecutedCode)
    numbers: tuple[int, ...] = ()
    communicates: bool = False

    def finish(self, flat: Sequence[Any]) -> Any:
        """The model's return value, of the flat outputs of its graph; does what the forward leaves done."""
        for final in self.finals:
            final.store(flat[self.output.count :])
        return self.output.fill(flat[: self.output.count])

    def constants(self) -> list[Any]:
        """What the graph reads beside its inputs: tensors of the model, and those that its code made."""
        return [attribute_of(self.graph, n) for n in self.graph.graph.find_nodes(op="get_attr")]
