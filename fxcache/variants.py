"""Variants: the transformed graphs of one model, one for each kind of call."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import nn

from .ambient import with_settings
from .capture import Capture, capture
from .config import CacheConfig
from .effects import with_effects
from .errors import CaptureError
from .finding import first_chain
from .fingerprint import Fingerprint, fingerprint
from .flops import Described, StepFlops, count_step
from .forwards import ForwardInputs
from .guards import ShapeGuards
from .ir import Program
from .modulelists import Way
from .opaque import is_opaque
from .passes import run_passes
from .randomness import refuse_reordered
from .reachable import Place
from .signature import Call, structure_key
from .watch import Watch, watch_forward
from .writeback import writing_back

if TYPE_CHECKING:
    from .conditioning import Roles

Lowering = Callable[[Program], Callable[..., tuple[Any, ...]]]
MAX_VALUE_VARIANTS = 16  # graphs for one signature that differ only in values that the glue read


def eager(program: Program) -> Callable[..., tuple[Any, ...]]:
    """The lowering that runs the graph as it is."""
    assert program.graph is not None
    return program.graph.forward


@dataclass(eq=False)
class Variant:
    """One transformed graph and the calls that it serves.

    run: takes the flat inputs and the state tensors; gives the flat outputs. served: calls so far.
    roles: what its inputs are for, known since its first call. objects: those of the call that was captured,
    which blocks may be given whenever the graph runs; prints: how these were. gives_object: one may be
    in the output.
    """

    program: Program
    run: Callable[..., tuple[Any, ...]]
    guards: ShapeGuards
    watch: Watch
    objects: tuple[Any, ...] = ()
    prints: tuple[Fingerprint, ...] = ()
    gives_object: bool = False
    served: int = 0
    roles: Roles | None = None
    symbols: dict[tuple[Any, ...], dict[sympy.Symbol, sympy.Integer]] = field(default_factory=dict)
    _inputs: dict[tuple[Any, ...], tuple[Described, ...]] = field(default_factory=dict)
    _flops: dict[tuple[Any, ...], StepFlops | None] = field(default_factory=dict)

    def intact(self) -> bool:
        """Whether the model's Python state is what the graph was made for."""
        return self.watch.holds()

    def accepts(self, call: Call) -> bool:
        """Whether the sizes and the values that were read at capture are those of `call`."""
        if call.key not in self.symbols:
            bound = self.guards.bind([t.shape for t in call.tensors])
            if bound is None:
                return False
            self.symbols[call.key] = bound
            self._inputs[call.key] = tuple((tuple(t.shape), t.dtype, t.device) for t in call.tensors)
        return self.values_hold(call)

    def values_hold(self, call: Call) -> bool:
        """Whether the values that were read at capture are those of `call`."""
        values = self.program.capture.values
        return values is None or values.hold(call.tensors)

    def objects_hold(self, call: Call) -> bool:
        """Whether the objects that the graph refers to are, or still are as, those of `call`."""
        if len(call.objects) == len(self.objects) and all(map(operator.is_, call.objects, self.objects)):
            return True
        return not self.gives_object and self.prints == tuple(map(fingerprint, self.objects))

    def allocate(self, call: Call) -> dict[str, torch.Tensor]:
        """Fresh state for the sizes of `call`."""
        symbols = self.symbols[call.key]
        shapes: Mapping[str, tuple[int, ...]] = {}
        if any(s.sizes(symbols) is None for s in self.program.state):
            shapes = self._measure(call)
        return {s.name: s.allocate(symbols, shapes.get(s.name)) for s in self.program.state}

    def flops(self, call_key: tuple[Any, ...]) -> StepFlops | None:
        """FLOPs of a step at the sizes of a call that was accepted, counted when first asked for."""
        if call_key not in self._flops:
            inputs, symbols = self._inputs[call_key], self.symbols[call_key]
            self._flops[call_key] = count_step(self.program, inputs, symbols)
        return self._flops[call_key]

    def _measure(self, call: Call) -> dict[str, tuple[int, ...]]:
        """Shapes of state that depend on data, from running the captured graph once."""
        wanted = {s.name: s for s in self.program.state}
        found: dict[str, tuple[int, ...]] = {}
        nodes = measured_nodes(self.program)

        class Watch(torch.fx.Interpreter):
            def run_node(self, n: torch.fx.Node) -> Any:
                value = super().run_node(n)
                for name in nodes.get(n.name, ()):
                    found[name] = tuple(value.shape)
                return value

        Watch(self.program.capture.graph).run(*call.tensors)
        return {name: shape for name, shape in found.items() if name in wanted}


def measured_nodes(program: Program) -> dict[str, list[str]]:
    """For each value of the captured graph, the state tensors that are shaped like it."""
    nodes: dict[str, list[str]] = {}
    for segment in program.segments:
        if segment.fn:
            primary = segment.blocks[segment.fn - 1].primary
            assert primary is not None
            nodes.setdefault(primary.name, []).append(f"previous_{segment.index}")
    for state in program.state:
        value, _, _ = state.name.rpartition("_factor_")
        if value:
            nodes.setdefault(value, []).append(state.name)
    return nodes


class Variants:
    """Finds, or makes, the variant for a call."""

    def __init__(
        self,
        model: nn.Module,
        config: CacheConfig,
        scope: str,
        inputs: ForwardInputs,
        lower: Lowering,
    ) -> None:
        self._lower = lower
        self._model = model
        self._config = config
        self._scope = scope
        self._inputs = inputs
        self._by_structure: dict[tuple[Any, ...], list[Variant]] = {}
        self._by_call: dict[tuple[Any, ...], tuple[tuple[Any, ...], Variant]] = {}
        self._last: tuple[tuple[Any, ...], Variant] | None = None

    def of(self, call: Call, bound: Mapping[str, Any]) -> tuple[Variant, Call]:
        """The variant that serves `call`; captures when there is none. Raises `CaptureError`.

        Also gives the call again, with the key that equal calls before had: comparing it is quick then.
        """
        known = self._last
        if known is None or known[0] != call.key:  # to compare is quicker than to look up
            known = self._by_call.get(call.key)
        if known is not None:
            key, variant = self._last = known
            if variant.intact() and variant.objects_hold(call) and variant.values_hold(call):
                variant.served += 1
                return variant, replace(call, key=key)
        structure = structure_key(call.key)
        found = self._by_structure.setdefault(structure, [])
        fitting = next((v for v in found if v.intact() and v.objects_hold(call) and v.accepts(call)), None)
        if fitting is None:
            self._bound_by_value(found)
            fitting = self._make(call, bound)
            found.append(fitting)
        variant = fitting
        variant.served += 1
        self._last = self._by_call[call.key] = call.key, variant
        return variant, call

    def all(self) -> list[Variant]:
        return [v for found in self._by_structure.values() for v in found]

    def clear(self) -> None:
        self._by_structure.clear()
        self._by_call.clear()
        self._last = None

    def _bound_by_value(self, found: list[Variant]) -> None:
        """Forget the oldest graph of many that differ in values read; refuse where each served one call."""
        by_value = [v for v in found if v.program.capture.values is not None]
        if len(by_value) < MAX_VALUE_VARIANTS:
            return
        if all(v.served <= 1 for v in by_value):
            guards = by_value[-1].program.capture.values
            reads = ", ".join(guards.reads) if guards is not None else ""
            why = f"its Python code reads tensor values that change on every call ({reads})"
            raise CaptureError(type(self._model).__name__, {"real": why})
        found.remove(by_value[0])
        self._by_call = {key: v for key, v in self._by_call.items() if v[1] is not by_value[0]}
        self._last = None

    def _make(self, call: Call, bound: Mapping[str, Any]) -> Variant:
        program = transform_call(self._model, self._config, self._scope, self._inputs, bound, call.tensors)
        guards = program.capture.shapes.also(program.assumed)
        run = with_settings(self._lower(program), program.capture.settings)
        run = with_effects(writing_back(run, program.capture), program.capture.effects)
        variant = Variant(program, run, guards, _watch(self._model, program), *_objects(program, call))
        if not variant.accepts(call):
            raise CaptureError(type(self._model).__name__, {"guards": "they reject the captured call"})
        return variant


def _objects(program: Program, call: Call) -> tuple[tuple[Any, ...], tuple[Fingerprint, ...], bool]:
    given = any(is_opaque(c) for c in program.capture.output.held())
    return tuple(call.objects), tuple(map(fingerprint, call.objects)), given


def transform_call(
    model: nn.Module,
    config: CacheConfig,
    scope: str,
    inputs: ForwardInputs,
    bound: Mapping[str, Any],
    tensors: list[torch.Tensor],
) -> Program:
    """Capture one call and run the passes, with the first way of choosing blocks that finds a chain."""

    def passed(captured: Capture, way: Way) -> Program:
        timestep = inputs.timestep_of(captured.inputs)
        program = run_passes(Program(captured, config, scope, timestep, by_class=way.by_class))
        refuse_reordered(program)
        return program

    return first_chain(model, lambda way: capture(model, bound, tensors, way), passed)


def _watch(model: nn.Module, program: Program) -> Watch:
    """What must stay as it is for the graph to mean the model: what the glue read, tensors in the graph."""
    captured = program.capture
    tensors: list[Place] = []
    for node in captured.graph.graph.find_nodes(op="get_attr"):
        parent, _, last = str(node.target).rpartition(".")
        try:
            owner = model.get_submodule(parent)
        except AttributeError:
            continue
        for table in (owner._parameters, owner._buffers):
            if last in table:
                tensors.append(
                    Place(parent or type(model).__name__, table, frozenset({last}), attributes=True)
                )
    finals = [f.write for f in captured.finals]
    return watch_forward(model, captured.leaves, captured.code, captured.effects, finals, tensors)
