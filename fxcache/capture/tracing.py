"""Trace one call of a forward into a functional graph, with leaf calls as single nodes.

The forward is traced as it runs; a second trace, over the straight-line graph of the first, removes
in-place writes. One trace through a functionalizing layer would hide the reads of Python code from
us, and leaves some composite operators' writes in the graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from ..environment.ambient_settings import Change, autocast, changes, without_autocast_cache
from ..environment.executed_code import ExecutedCode
from ..environment.final_write import Final
from ..environment.module_mutations import Effect, WriteWatch
from ..environment.opaque_objects import is_opaque, tensors_within
from ..environment.refused_trace import RefusedTrace
from ..environment.structure import Structure
from ..environment.trace_sandbox import Sandbox
from ..torch_private import deny_fx_tracing, enable_python_dispatcher, make_fx
from .cut_final_writes import cut_finals
from .glue_watch import AliasWritten, Calls, GlueWatch
from .record_leaves import LeafRecord, Recording, is_traced, recording
from .sanitize_trace import (
    RANDOM,
    drop_copies,
    drop_marks,
    is_write,
    mark_random,
    refuse_effects,
    written_inputs,
)
from .symbolic_reads import SymbolicReads, TracedItems
from .untraceable_code import OTHER_THREADS, refuse_seeded, refuse_threads, refuse_types
from .value_reads import MemoryReads, OwnReads, ValueReads


@dataclass(frozen=True)
class Trace:
    """graph: takes the flat inputs; returns the flat outputs, what `finals` store, the inputs' new values,
    and then the values in `reads`.

    calls: the leaf calls, in order; a leaf-call node's first argument is its index here.
    output: rebuilds the forward's return value from the flat outputs.
    reads: what Python code read, or was told, while it was traced: tensors and numbers.
    effects: what the forward set before it called the leaves. finals: what it left written.
    code: what ran outside the leaves.
    written: (input, output) pairs: these outputs, behind the forward's own, are the inputs' new values.
    settings: to be in force while the graph runs; each call's `changed` is relative to them.
    """

    graph: GraphModule
    calls: list[LeafRecord]
    output: Structure
    reads: tuple[Any, ...]
    effects: tuple[Effect, ...]
    finals: tuple[Final, ...]
    code: ExecutedCode
    written: tuple[tuple[int, int], ...]
    settings: tuple[Change, ...]


def trace(
    forward: Callable[..., Any],
    leaves: Mapping[str, nn.Module],
    inputs: Callable[[], list[torch.Tensor]],
    model: nn.Module,
    sandbox: Sandbox,
    real: bool,
    decomposed: bool = False,
    numbers: SymbolicReads | None = None,
    blocks: frozenset[str] = frozenset(),
) -> Trace:
    """Trace `forward(*inputs())`, a call of `model`; on real tensors, watching what is read of their values.
    On fake ones `numbers`, if given, says what is read.

    inputs: gives the flat inputs, anew for each trace that may write to them. decomposed: use the Python
    decompositions of operators, which take symbolic amounts of padding and resizing that their kernels do
    not. Some copy where the kernel returns its input, so that writes in place are refused.
    blocks: names of the leaves that may read values.

    Raises whatever the forward raises under tracing, and `RefusedTrace`.
    """
    with without_autocast_cache(), enable_python_dispatcher() if decomposed else contextlib.nullcontext():
        if decomposed:
            return _trace(forward, leaves, inputs, model, sandbox, real, False, numbers, blocks, pure=True)
        try:
            return _trace(forward, leaves, inputs, model, sandbox, real, False, numbers, blocks)
        except AliasWritten:
            sandbox.restore()
            return _trace(forward, leaves, inputs, model, sandbox, real, True, numbers, blocks)


def _trace(
    forward: Callable[..., Any],
    leaves: Mapping[str, nn.Module],
    inputs: Callable[[], list[torch.Tensor]],
    model: nn.Module,
    sandbox: Sandbox,
    real: bool,
    aliasing: bool,
    numbers: SymbolicReads | None,
    blocks: frozenset[str],
    pure: bool = False,
) -> Trace:
    output: list[Structure] = []
    finals: list[Final] = []
    further: list[torch.Tensor] = []
    watch = ValueReads(model) if real else OwnReads(model)
    reads = watch if isinstance(watch, ValueReads) else numbers
    if numbers is not None:
        numbers.begin()
    glue = GlueWatch(model, leaves.values(), pure)
    writes = WriteWatch(model, leaves)
    told = (sandbox.calling, writes.calling, watch.calling)
    code = ExecutedCode((sandbox.running, writes.running), OTHER_THREADS, told)

    def body(*values: torch.Tensor) -> list[Any]:
        with (
            glue,
            watch,
            numbers or contextlib.nullcontext(),
            Calls(glue),
            MemoryReads(watch),
            contextlib.nullcontext() if real else TracedItems(),
            glue.watching(),
            code.watching(),
        ):
            with refuse_threads(code):
                result = forward(*values)
            if numbers is not None:
                numbers.finish()
        structure, dynamic = Structure.of(result, fields=True)
        _refuse_hidden(structure)
        output.append(structure)
        found, stored = cut_finals(writes.finished())
        finals.extend(found)
        further.extend(stored)
        return [*dynamic, *stored, *(reads.copies if reads is not None else ())]

    # Blocks hand on the sizes they are given; other modules may make new ones of what they read.
    watched = frozenset(leaves) - blocks if real else frozenset()
    written: tuple[tuple[int, int], ...] = ()
    with recording(leaves, glue, writes, code, watched, aliasing, model) as session:
        graph = _make_graph(body, inputs(), fake=not real)
        drop_marks(graph.graph)
        if any(is_write(n) for n in graph.graph.nodes):
            functional = _functional(graph, numbers)
            graph = _make_graph(functional, inputs(), fake=not real)
            drop_copies(graph.graph)
            written = written_inputs(graph.graph, output[-1].count + len(further))
    refuse_effects(graph.graph)
    mark_random(graph, session.calls)
    refuse_seeded(code, any(RANDOM in n.meta for n in graph.graph.nodes))
    if not real:
        refuse_types(code, any(isinstance(s, torch.SymInt) for t in inputs() for s in t.shape))
    _refuse_numbers(session.calls, watched)
    settings = _settle_autocast(session, glue)
    return Trace(
        graph,
        session.calls,
        output[-1],
        tuple(reads.values) if reads is not None else (),
        writes.effects,
        tuple(finals),
        code,
        written,
        settings,
    )


def _functional(graph: GraphModule, numbers: SymbolicReads | None) -> Callable[..., Any]:
    """What the graph does, without writes."""
    functional = torch.func.functionalize(graph, remove="mutations")
    if numbers is None:
        return functional

    def reading(*values: torch.Tensor) -> Any:
        with numbers.again():
            return functional(*values)

    return reading


def _make_graph(body: Callable[..., Any], flat: list[torch.Tensor], fake: bool) -> GraphModule:
    def told_nobody(*values: torch.Tensor) -> Any:
        # The tracer puts it back. What the user compiled runs as it is (`uncompiled`), and need not refuse.
        deny_fx_tracing()
        return body(*values)

    tracer = make_fx(
        told_nobody,
        tracing_mode="fake" if fake else "real",
        _allow_non_fake_inputs=True,
        _error_on_data_dependent_ops=fake,
    )
    return tracer(*flat)  # type: ignore[no-any-return]


def _refuse_hidden(output: Structure) -> None:
    for constant in output.held():
        if is_opaque(constant) and any(map(is_traced, tensors_within(constant))):
            kind = type(constant).__name__
            raise RefusedTrace(f"its forward returns a {kind} that holds tensors")


def _settle_autocast(session: Recording, glue: GlueWatch) -> tuple[Change, ...]:
    """How each leaf's settings differ from those that the graph runs under.

    Every cast of the glue is in the trace. Where it casts otherwise than the caller's region would, the
    graph runs outside of that region, and each leaf enters its own.
    """
    outer = tuple(Change(f"autocast {kind}", (False, None)) for kind, _ in autocast())
    moved = glue.recast or any(c.name.startswith("autocast ") for r in session.calls for c in r.changed)
    if not outer or not moved:
        return ()
    base = {**glue.ambient, **{c.name: c.value for c in outer}}
    for record in session.calls:
        record.changed = changes(base, record.ambient)
    return outer


def _refuse_numbers(calls: list[LeafRecord], watched: frozenset[str]) -> None:
    """A block traced on real tensors may have read the numbers that it returns."""
    for call in calls:
        assert call.outputs is not None
        numbers = [c for c in call.outputs.constants if isinstance(c, (bool, int, float))]
        if watched and call.name not in watched and numbers:
            raise RefusedTrace(f"block '{call.name}' returns numbers, which may depend on tensor values")
