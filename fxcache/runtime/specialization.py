"""A specialization: the transformed graph for one kind of call, and when it holds."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch

from ..capture.call_signature import Call, structure_key
from ..capture.operand_writes import plain_tensors_of
from ..config import CacheConfig
from ..environment.ambient_settings import with_settings
from ..environment.fingerprint import Fingerprint, fingerprint
from ..environment.module_mutations import with_effects
from ..environment.opaque_objects import is_opaque
from ..environment.reachable_state import Place
from ..environment.state_watch import Watch, watch_forward
from ..ir.captured import Capture
from ..ir.guards import ShapeGuards
from ..ir.keys import HISTORY, StateKey
from ..ir.program import Program
from ..ir.roles import Roles
from ..ir.settings import IN_GRAPH, digest, set_by
from .flops import Described, StepFlops, count_stages, count_step
from .served_graph import Served
from .state_kind import Kind as StateKind
from .state_kind import state_kind
from .trainable import Trainable
from .write_back import writing_back

Lowering = Callable[[Program], Callable[..., tuple[Any, ...]]]
Key = tuple[Any, ...]


def eager(program: Program) -> Callable[..., tuple[Any, ...]]:
    """The lowering that runs the graph as it is."""
    assert program.graph is not None
    return program.graph.forward


@dataclass(eq=False)
class Specialization:
    """One transformed graph and the calls that it serves.

    run: takes the flat inputs and the state tensors; returns the flat outputs. served: calls so far.
    key, structure: of the call that was captured. number, last_served: which call that was, and the last one
    that was served. objects: those of the call that was captured, which blocks may be given whenever the
    graph runs; prints: how these were. gives_object: one may be in the output. flexible: whether `run`
    takes state of any memory.
    """

    program: Program
    run: Callable[..., tuple[Any, ...]]
    guards: ShapeGuards
    watch: Watch
    key: Key = ()
    structure: Key = ()
    objects: tuple[Any, ...] = ()
    prints: tuple[Fingerprint, ...] = ()
    gives_object: bool = False
    number: int = 0
    served: int = 0
    last_served: int = 0
    symbols: dict[tuple[Any, ...], dict[sympy.Symbol, sympy.Integer]] = field(default_factory=dict)
    flexible: bool = True
    _inputs: dict[tuple[Any, ...], tuple[Described, ...]] = field(default_factory=dict)
    _kinds: dict[tuple[Any, ...], StateKind | None] = field(default_factory=dict)
    _flops: dict[tuple[Any, ...], StepFlops | None] = field(default_factory=dict)
    _stages: dict[str, int] | None = None

    @staticmethod
    def of(program: Program, run: Callable[..., tuple[Any, ...]], call: Call) -> Specialization:
        """Of a transformed call, and what runs its graph."""
        captured = program.capture
        run = with_settings(run, captured.settings)
        run = with_effects(writing_back(run, captured), captured.effects)
        guards = captured.shapes.also(program.assumed)
        return Specialization(
            program,
            run,
            guards,
            _watch(captured),
            call.key,
            structure_key(call.key),
            tuple(call.objects),
            tuple(map(fingerprint, call.objects)),
            any(is_opaque(c) for c in captured.output.held()),
        )

    @functools.cached_property
    def roles(self) -> Roles:
        """What its inputs are for."""
        return Roles.of(self.program.capture, self.program.timestep)

    @functools.cached_property
    def trainable(self) -> Trainable:
        """Whether anything is to be trained that the model's tables of parameters and buffers do not hold.

        That is: a module that the forward calls, and a tensor in a plain attribute that the call used.
        """
        captured = self.program.capture
        held = set(captured.model.modules())
        called = dict.fromkeys((*captured.leaves.values(), *captured.code.called))
        constants = [c for c in captured.constants() if isinstance(c, torch.Tensor)]
        plain = [t for leaf in captured.leaves.values() for t in plain_tensors_of(leaf)]
        return Trainable((c for c in called if c not in held), (*constants, *plain))

    @functools.cached_property
    def facts(self) -> Mapping[str, str]:
        """What of it must be the same on all ranks that decide together, by name.

        Sizes need not be; nor settings that are state, where each rank has a sample of its own.
        """
        program, config = self.program, self.program.config
        found: dict[str, object] = {name: getattr(config, name) for name in IN_GRAPH}
        found["blocks"] = [b.name for b in program.chain]
        found["segments"] = [(s.fn, s.bn) for s in program.segments]
        found["state"] = [(t.name, t.dtype) for t in program.state]
        if any(group.agree == "parts" for group in program.groups):
            found["settings"] = f"{config} (digest {digest(config):.0f})"
        return {name: str(value) for name, value in found.items()}

    @property
    def segments(self) -> int:
        """How many decisions a step makes."""
        return len(self.program.segments)

    @property
    def asks_host(self) -> bool:
        """Whether the host may decide a step: the graph asks it first. Not where ranks decide together: what
        each host has seen by now is no two ranks' the same."""
        return not self.program.groups

    def intact(self) -> bool:
        """Whether the model's Python state is what the graph was made for."""
        return self.watch.holds()

    def accepts(self, call: Call) -> bool:
        """Whether the sizes and the values that were read at capture are those of `call`."""
        if call.key not in self.symbols:
            bound = self.guards.bind([t.shape for t in call.tensors])
            if bound is None or not self.values_hold(call):
                return False
            self.symbols[call.key] = bound
            self._inputs[call.key] = tuple((tuple(t.shape), t.dtype, t.device) for t in call.tensors)
            return True
        return self.values_hold(call)

    def forget(self, call_key: Key) -> None:
        """Forget what is known of a call that was accepted."""
        for known in (self.symbols, self._inputs, self._flops, self._kinds):
            known.pop(call_key, None)  # type: ignore[attr-defined]

    def values_hold(self, call: Call) -> bool:
        """Whether the values that were read at capture are those of `call`."""
        values = self.program.capture.values
        return values is None or values.hold(call.tensors)

    def shares_state(self, other: Served, call_key: Key) -> bool:
        """Whether a trajectory of calls with this key may go on from this specialization to the other.

        It may where what the forward reads of its inputs is all that tells them apart.
        """
        if self is other or not isinstance(other, Specialization):
            return self is other
        kind = self._state_kind(call_key)
        return kind is not None and kind == other._state_kind(call_key) and self.intact()

    def _state_kind(self, call_key: Key) -> StateKind | None:
        if call_key not in self._kinds and call_key in self.symbols:
            values, symbols = self.program.capture.values, self.symbols[call_key]
            inputs_only = not self.objects and (values is None or not values.attributes)
            one_of_many = self.flexible and inputs_only
            self._kinds[call_key] = state_kind(self.program, symbols) if one_of_many else None
        return self._kinds.get(call_key)

    def objects_hold(self, call: Call) -> bool:
        """Whether the objects that the graph refers to are, or still are as, those of `call`."""
        if len(call.objects) == len(self.objects) and all(map(operator.is_, call.objects, self.objects)):
            return True
        return not self.gives_object and self.prints == tuple(map(fingerprint, self.objects))

    def allocate(self, call: Call, config: CacheConfig) -> dict[str, torch.Tensor]:
        """Fresh state for the sizes of `call`, with the settings of `config`."""
        symbols = self.symbols[call.key]
        shapes: Mapping[str, tuple[int, ...]] = {}
        if any(s.sizes(symbols) is None for s in self.program.state):
            shapes = self._measure(call)
        state = (set_by(tensor, config) for tensor in self.program.state)
        return {s.name: s.allocate(symbols, shapes.get(s.name)) for s in state}

    def measure(self) -> tuple[dict[str, int], int | None]:
        """FLOPs of each stage and bytes of the state, at the sizes of the captured call, where known."""
        if self.key not in self._inputs:
            return {}, None
        inputs, symbols = self._inputs[self.key], self.symbols[self.key]
        if self._stages is None:
            self._stages = count_stages(self.program, inputs, symbols) or {}
        return self._stages, sum(s.bytes(symbols) for s in self.program.state)

    def flops(self, call_key: tuple[Any, ...]) -> StepFlops | None:
        """FLOPs of a step at the sizes of a call that was accepted, counted when first asked for.

        None where they cannot be counted, or the call was many others ago.
        """
        if call_key not in self._inputs:
            return None
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
    """For each value of the captured graph, the state tensors of its shape, or of several such."""
    nodes: dict[str, list[str]] = {}
    for segment in program.segments:
        if segment.fn and program.config.policy.signal == "residual" and program.config.signal_stride == 1:
            primary = segment.blocks[segment.fn - 1].primary
            assert primary is not None
            nodes.setdefault(primary.name, []).append(StateKey("previous", segment.index).name)
    for state in program.state:
        history = HISTORY.fullmatch(state.name)
        if history is not None:
            nodes.setdefault(history[1], []).append(state.name)
    return nodes


def _watch(captured: Capture) -> Watch:
    """What must stay as it is for the graph to mean the model: what the glue read, tensors in the graph."""
    model = captured.model
    used = {id(constant) for constant in captured.constants()}
    owners = dict((m, name) for name, m in model.named_modules())
    for path, leaf in (*captured.leaves.items(), *((type(m).__name__, m) for m in captured.code.called)):
        for name, module in leaf.named_modules(prefix=path):  # of leaves that the model does not hold
            owners.setdefault(module, name)
    tensors: list[Place] = []
    for owner, name in owners.items():
        for table in (owner._parameters, owner._buffers):
            keys = frozenset(key for key, tensor in table.items() if id(tensor) in used)
            if keys:
                tensors.append(Place(name or type(model).__name__, table, keys, attributes=True))
    finals = [f.write for f in captured.finals]
    return watch_forward(model, captured.leaves, captured.code, captured.effects, finals, tensors)
