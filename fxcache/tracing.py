"""Trace one call of a forward into a functional graph, with leaf calls as single nodes.

The forward is traced as it runs; a second trace, over the straight-line graph of the first, removes
in-place writes. One trace through a functionalising layer would hide the reads of Python code from
us, and leaves some composite operators' writes in the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from .effects import Effect
from .leaf import LeafRecord, Recording, Structure, recording
from .modulelists import list_of
from .reads import MemoryReads, OwnReads, RefusedTrace, ValueReads


@dataclass(frozen=True)
class Trace:
    """graph: takes the flat inputs; gives the flat outputs and then the values in `reads`.

    calls: the leaf calls, in order; a leaf-call node's first argument is its index here.
    output: rebuilds the forward's return value from the flat outputs.
    reads: what Python code read while it was traced; empty under fake tensors, which refuse.
    effects: what the forward set on the leaves before it called them.
    """

    graph: GraphModule
    calls: list[LeafRecord]
    output: Structure
    reads: tuple[torch.Tensor, ...]
    effects: tuple[Effect, ...]


def trace(
    forward: Callable[..., Any],
    leaves: Mapping[str, nn.Module],
    flat: list[torch.Tensor],
    model: nn.Module,
    real: bool,
) -> Trace:
    """Trace `forward(*flat)`, a call of `model`; on real tensors, watching what is read of their values.

    Raises whatever the forward raises under tracing, and `RefusedTrace`.
    """
    output: list[Structure] = []
    reads = ValueReads(model)
    watch = reads if real else OwnReads(model)

    def body(*values: torch.Tensor) -> list[Any]:
        with watch, MemoryReads(watch):
            result = forward(*values)
        structure, dynamic = Structure.of(result)
        output.append(structure)
        return [*dynamic, *reads.copies]

    # Blocks hand on the sizes they are given; other modules may make new ones of what they read.
    watched = frozenset(n for n in leaves if real and list_of(model, n) is None)
    with recording(leaves, watched) as session:
        graph = _make_graph(body, flat, fake=not real)
        if any(_writes(n) for n in graph.graph.nodes):
            graph = _functional(graph, flat, session, fake=not real)
    _refuse_numbers(session.calls, watched)
    found = tuple(reads.values) if reads is not None else ()
    return Trace(graph, session.calls, output[-1], found, session.effects.found)


def _make_graph(body: Callable[..., Any], flat: list[torch.Tensor], fake: bool) -> GraphModule:
    tracer = make_fx(
        body,
        tracing_mode="fake" if fake else "real",
        _allow_non_fake_inputs=True,
        _error_on_data_dependent_ops=fake,
    )
    return tracer(*flat)  # type: ignore[no-any-return]


def _functional(graph: GraphModule, flat: list[torch.Tensor], session: Recording, fake: bool) -> GraphModule:
    """The same computation without in-place writes."""
    functional = _make_graph(torch.func.functionalize(graph, remove="mutations"), flat, fake)
    for node in functional.graph.nodes:
        if _writes(node):
            raise RefusedTrace(f"its forward writes to '{node.args[0]}' in place ({node.target})")
    return functional


def _refuse_numbers(calls: list[LeafRecord], watched: frozenset[str]) -> None:
    """A block traced on real tensors may have read the numbers that it gives back."""
    for call in calls:
        assert call.outputs is not None
        numbers = [c for c in call.outputs.constants if isinstance(c, (bool, int, float))]
        if watched and call.name not in watched and numbers:
            raise RefusedTrace(f"block '{call.name}' gives back numbers, which may depend on tensor values")


def _writes(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable
