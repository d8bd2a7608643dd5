"""Specializations: the transformed graphs of one model, one for each kind of call."""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
import torch
from torch import nn

from ..capture.call_signature import Call, flatten, structure_key
from ..capture.called_blocks import way_by_calls
from ..capture.capture import capture, module_calls
from ..capture.find_blocks import first_chain
from ..capture.forward_inputs import ForwardInputs
from ..capture.number_promotion import Promotion, as_numbers, path_of
from ..config import CacheConfig
from ..environment.ambient_settings import with_settings
from ..environment.fingerprint import Fingerprint, fingerprint
from ..environment.key_differences import Difference, differences, kind_of
from ..environment.module_mutations import with_effects
from ..environment.opaque_objects import is_opaque
from ..environment.reachable_state import Place
from ..environment.state_watch import Watch, watch_forward
from ..errors import CaptureError, ConfigError, FxcacheError, TooManyCapturesError
from ..ir.captured import Capture
from ..ir.guards import ShapeGuards
from ..ir.keys import FACTOR, StateKey
from ..ir.module_lists import Way
from ..ir.program import Program
from ..ir.roles import Roles
from ..passes import run_passes
from .flops import Described, StepFlops, count_stages, count_step
from .random_order import refuse_reordered
from .served_graph import Served
from .state_kind import Kind as StateKind
from .state_kind import state_kind
from .trainable import Trainable
from .write_back import writing_back

Lowering = Callable[[Program], Callable[..., tuple[Any, ...]]]
Key = tuple[Any, ...]
MAX_CAPTURES = 16  # specializations for one kind of call
MOST_KINDS = 4  # at most this many kinds of call may each have as many
MAX_CALLS = 256  # calls, by sizes and values, that are found quickly
_LOG = logging.getLogger("fxcache")


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
        return Trainable((c for c in called if c not in held), captured.plain_tensors())

    @property
    def segments(self) -> int:
        """How many decisions a step makes."""
        return len(self.program.segments)

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

    def allocate(self, call: Call) -> dict[str, torch.Tensor]:
        """Fresh state for the sizes of `call`."""
        symbols = self.symbols[call.key]
        shapes: Mapping[str, tuple[int, ...]] = {}
        if any(s.sizes(symbols) is None for s in self.program.state):
            shapes = self._measure(call)
        return {s.name: s.allocate(symbols, shapes.get(s.name)) for s in self.program.state}

    def measure(self) -> tuple[dict[str, int], int | None]:
        """FLOPs of each stage and bytes of the state, at the sizes of the captured call, where known."""
        if self.key not in self._inputs:
            return {}, None
        inputs, symbols = self._inputs[self.key], self.symbols[self.key]
        stages = count_stages(self.program, inputs, symbols) or {}
        return stages, sum(s.bytes(symbols) for s in self.program.state)

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
    """For each value of the captured graph, the state tensors that are shaped like it."""
    nodes: dict[str, list[str]] = {}
    for segment in program.segments:
        if segment.fn:
            primary = segment.blocks[segment.fn - 1].primary
            assert primary is not None
            nodes.setdefault(primary.name, []).append(StateKey("previous", segment.index).name)
    for state in program.state:
        factor = FACTOR.fullmatch(state.name)
        if factor is not None:
            nodes.setdefault(factor[1], []).append(state.name)
    return nodes


@dataclass(eq=False)
class Kind:
    """What is known of the calls that differ only in sizes and values.

    failures: errors by the key of a call that could not be captured. refused: why no more of them are.
    wasted: (how many, why) graphs of it that served one call each.
    """

    specializations: list[Specialization] = field(default_factory=list)
    failures: dict[Key, FxcacheError] = field(default_factory=dict)
    refused: FxcacheError | None = None
    wasted: tuple[int, str] | None = None


class Specializations:
    """Finds, or makes, the specialization for a call. Those not used any more are forgotten.

    Args:
        max_captures: how many specializations may be kept for one kind of call.
        remember: whether a kind of call that was refused is refused again without another try.
    """

    def __init__(
        self,
        model: nn.Module,
        config: CacheConfig,
        scope: str,
        inputs: ForwardInputs,
        lower: Lowering,
        max_captures: int = MAX_CAPTURES,
        remember: bool = False,
    ) -> None:
        self._lower = lower
        self._model = model
        self._config = config
        self._scope = scope
        self._inputs = inputs
        self._max_captures = max_captures
        self._remember = remember
        self._kinds: dict[Key, Kind] = {}
        self._by_call: dict[Key, tuple[Key, Specialization]] = {}
        self._last: tuple[Key, Specialization] | None = None
        self._calls = 0
        self._promotion = Promotion()

    def of(self, call: Call, bound: Mapping[str, Any], numbers: bool = True) -> tuple[Specialization, Call]:
        """The specialization that serves `call`; captures when there is none. Raises `CaptureError`.

        numbers: whether numbers that changed may become inputs of its graph.

        Also returns the call again, with the key that equal calls before had: comparing it is quick then.
        """
        self._calls += 1
        known = self._last
        if known is None or known[0] != call.key:  # to compare is quicker than to look up
            known = self._by_call.get(call.key)
        if known is not None:
            key, specialization = self._last = known
            if (
                specialization.intact()
                and specialization.objects_hold(call)
                and specialization.values_hold(call)
            ):
                specialization.served += 1
                specialization.last_served = self._calls
                return specialization, replace(call, key=key)
        specialization, call = self._find(call, bound, numbers)
        specialization.served += 1
        specialization.last_served = self._calls
        self._keep(call, specialization)
        return specialization, call

    def all(self) -> list[Specialization]:
        """Every specialization, in the order in which they were made."""
        kinds = list(self._kinds.values())  # other threads may add some meanwhile
        return sorted((v for k in kinds for v in list(k.specializations)), key=lambda v: v.number)

    def forgive(self) -> None:
        """Try again what was refused."""
        for kind in list(self._kinds.values()):  # other threads may add some meanwhile
            kind.failures.clear()
            if kind.wasted is not None:
                for specialization in [v for v in kind.specializations if v.served <= 1]:
                    self._drop(kind, specialization)
            kind.refused = kind.wasted = None

    def flatten(self, bound: Any, numbers: bool = True) -> tuple[Call, Mapping[str, Any]]:
        """A call with these arguments, and the arguments; numbers that change are tensors in both.

        A timestep changes.
        """
        names: tuple[str, ...] = ()
        step = self._inputs.numbered_step(bound) if numbers else None
        if step is not None and (step, "") not in self._promotion.fixed:
            self._promotion.add([(step, "")])
        if numbers and self._promotion.paths:
            bound, names = self._promotion.apply(bound)
        call = flatten(bound, self._model.training)
        positional = getattr(bound, "positional", 0)
        if not positional and not names:
            return call, bound
        return replace(call, key=(frozenset(names), positional, *call.key), numbers=names), bound

    def _find(
        self, call: Call, bound: Mapping[str, Any], numbers: bool = True, promoted: str | None = None
    ) -> tuple[Specialization, Call]:
        """`of`, the long way. promoted: how numbers changed that have just been made inputs."""
        kind = self._kind(call)
        structure = structure_key(call.key)
        for specialization in kind.specializations:
            like = specialization.structure == structure
            if (
                like
                and specialization.intact()
                and specialization.objects_hold(call)
                and specialization.accepts(call)
            ):
                return specialization, call
        failure = kind.refused or kind.failures.get(call.key)
        if failure is not None:
            raise failure.with_traceback(None)
        unfit = ""
        if numbers and promoted is None:
            found = self._promote(kind, call, bound)
            if isinstance(found, tuple):
                return found
            unfit = found
        self._refuse_waste(kind, call, bound)
        if promoted is None:
            why = self._why(kind, call, bound)
            _LOG.info("%s: capturing, because %s%s", type(self._model).__name__, why, unfit)
        try:
            specialization = self._make(call, bound)
        except FxcacheError as error:
            if call.numbers and promoted is None:  # another way through the forward needs the value
                self._promotion.fix([path_of(n, bound) for n in call.numbers])
                return self._find(*self.flatten(as_numbers(bound)))
            self._note_failure(kind, call, error)
            raise
        if promoted is not None:
            _LOG.info("%s: captured with a number as input: %s", type(self._model).__name__, promoted)
        self._make_room(kind)
        kind.specializations.append(specialization)
        return specialization, call

    def _promote(self, kind: Kind, call: Call, bound: Mapping[str, Any]) -> tuple[Specialization, Call] | str:
        """Make inputs of the numbers in which calls differ, and nothing else does.

        Gives a remark on why it cannot be, or "" where there is no such number.
        """
        if not self.flexible:
            return ""
        changed = self._changed_numbers(kind, call, bound)
        paths = [path_of(d.name, bound) for d in changed]
        if not paths:
            return ""
        self._promotion.add(paths)
        try:
            return self._find(*self.flatten(bound), promoted=", ".join(map(str, changed)))
        except FxcacheError as error:
            self._promotion.fix(paths)
            attempts = getattr(error, "attempts", {})
            reason = next(iter(attempts.values()), str(error).splitlines()[0])
            return f" (which cannot be an input of the graph: {reason})"

    def _changed_numbers(self, kind: Kind, call: Call, bound: Mapping[str, Any]) -> list[Difference]:
        """The numbers in which `call` differs from a specialization that it otherwise is like."""
        for specialization in kind.specializations:
            found = [d for d in differences(specialization.key, call.key, bound) if not d.sizes]
            numbers = all(d.number for d in found) and specialization.intact()
            if numbers and self._promotion.fixed.isdisjoint(path_of(d.name, bound) for d in found):
                return found
        return []

    @property
    def flexible(self) -> bool:
        """Whether graphs may read numbers out of their inputs, and be given any memory as their state."""
        return self._lower is eager or getattr(self._lower, "flexible", False)

    def _kind(self, call: Call) -> Kind:
        key = kind_of(call.key)
        kind = self._kinds.pop(key, None) or Kind()
        self._kinds[key] = kind
        while len(self._kinds) > MAX_CALLS:
            old = self._kinds.pop(next(iter(self._kinds)))
            for specialization in list(old.specializations):
                self._drop(old, specialization)
        return kind

    def _keep(self, call: Call, specialization: Specialization) -> None:
        """Find `specialization` quickly for calls like this; of many such calls the oldest is forgotten."""
        self._by_call.pop(call.key, None)
        self._last = self._by_call[call.key] = call.key, specialization
        while len(self._by_call) > MAX_CALLS:
            key, old = self._by_call.pop(next(iter(self._by_call)))
            old.forget(key)

    def _make_room(self, kind: Kind) -> None:
        """Forget the specializations that were not used for longest."""
        if len(kind.specializations) >= self._max_captures:
            self._drop(kind, min(kind.specializations, key=lambda v: v.last_served))
        pairs = [(k, v) for k in self._kinds.values() for v in k.specializations]
        if len(pairs) >= MOST_KINDS * self._max_captures:
            self._drop(*min(pairs, key=lambda pair: pair[1].last_served))

    def _drop(self, kind: Kind, specialization: Specialization) -> None:
        kind.specializations.remove(specialization)
        self._by_call = {key: v for key, v in self._by_call.items() if v[1] is not specialization}
        if self._last is not None and self._last[1] is specialization:
            self._last = None

    def _note_failure(self, kind: Kind, call: Call, error: FxcacheError) -> None:
        if not self._remember:
            return
        kind.failures[call.key] = error
        if len(kind.failures) >= self._max_captures:
            kind.failures.clear()
            if not kind.specializations:
                kind.refused = error

    def _refuse_waste(self, kind: Kind, call: Call, bound: Mapping[str, Any]) -> None:
        """Refuse a kind of call that needs a capture every time, because of something other than sizes."""
        if any(not self._differs(v, call) for v in kind.specializations):
            return
        wasted = sum(v.served <= 1 for v in kind.specializations)
        full = len(kind.specializations) >= self._max_captures
        if kind.wasted is None and full and 2 * wasted >= self._max_captures:
            kind.wasted = (wasted, self._why(kind, call, bound))
        if kind.wasted is not None:
            raise TooManyCapturesError(type(self._model).__name__, *kind.wasted)

    def _differs(self, specialization: Specialization, call: Call) -> bool:
        """Whether sizes are not all that `specialization` does not fit `call` for."""
        if specialization.structure != structure_key(call.key) or not specialization.intact():
            return True
        return specialization.program.capture.values is not None or not specialization.objects_hold(call)

    def _why(self, kind: Kind, call: Call, bound: Mapping[str, Any]) -> str:
        """Why no specialization serves `call`: how it differs from the one that is most like it."""
        known = kind.specializations or self.all()
        if not known:
            return "this is the first call"
        found = [(differences(v.key, call.key, bound), -v.last_served, v) for v in known]
        different, _, nearest = min(found, key=lambda f: (len(f[0]), f[1]))
        values = [d for d in different if not d.sizes]
        if not nearest.intact():
            return f"the model changed: {nearest.watch.changed()}"
        if different and (values or nearest.program.capture.values is None):
            return ", ".join(map(str, values or different))
        if not nearest.objects_hold(call):
            return "an object that the graph refers to was written to, or is given back"
        guards = nearest.program.capture.values
        reads = ", ".join(guards.reads) if guards is not None else "none"
        return f"its Python code read other values of tensors ({reads})"

    def _make(self, call: Call, bound: Mapping[str, Any]) -> Specialization:
        program = transform_call(
            self._model, self._config, self._scope, self._inputs, bound, call.tensors, call.numbers
        )
        guards = program.capture.shapes.also(program.assumed)
        run = with_settings(self._lower(program), program.capture.settings)
        run = with_effects(writing_back(run, program.capture), program.capture.effects)
        watch = _watch(self._model, program)
        structure = structure_key(call.key)
        specialization = Specialization(
            program, run, guards, watch, call.key, structure, *_objects(program, call)
        )
        specialization.number, specialization.flexible = self._calls, self.flexible
        if not specialization.accepts(call):
            raise CaptureError(type(self._model).__name__, {"guards": "they reject the captured call"})
        return specialization


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
    numbers: tuple[str, ...] = (),
) -> Program:
    """Capture one call and run the passes, with the first way of choosing blocks that finds a chain.

    Raises `ConfigError` where the config has no cache to put into the graph, and what these raise.
    """
    if not config.enabled:
        need = "there is no cache to transform, explain or export; the model runs as it is"
        raise ConfigError("enabled", False, need)

    def passed(captured: Capture, way: Way) -> Program:
        timestep = inputs.timestep_of(captured.inputs)
        program = Program(captured, config, scope, timestep, by_class=way.by_class, among=way.blocks)
        program = run_passes(program)
        refuse_reordered(program)
        return program

    def called() -> Way | None:
        return way_by_calls(model, module_calls(model, bound, tensors, numbers))

    return first_chain(model, lambda way: capture(model, bound, tensors, way, numbers), passed, called)


def _watch(model: nn.Module, program: Program) -> Watch:
    """What must stay as it is for the graph to mean the model: what the glue read, tensors in the graph."""
    captured = program.capture
    nodes = captured.graph.graph.find_nodes(op="get_attr")
    used = {id(functools.reduce(getattr, str(n.target).split("."), captured.graph)) for n in nodes}
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
