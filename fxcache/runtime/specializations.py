"""Specializations: the transformed graphs of one model, one for each kind of call."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ..capture.call_signature import Call, flatten, structure_key
from ..capture.forward_inputs import ForwardInputs
from ..capture.number_promotion import Promotion, as_numbers, path_of
from ..config import CacheConfig
from ..environment.key_differences import Difference, differences, kind_of
from ..errors import CaptureError, FxcacheError, TooManyCapturesError
from ..ir.ranks import RankGroup
from .specialization import Key, Lowering, Specialization, eager
from .transform_call import transform_call

MAX_CAPTURES = 16  # specializations for one kind of call
MOST_KINDS = 4  # at most this many kinds of call may each have as many
MAX_CALLS = 256  # calls, by sizes and values, that are found quickly
_LOG = logging.getLogger("fxcache")


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

    config: that its graphs are made with.

    Args:
        max_captures: how many specializations may be kept for one kind of call.
        remember: whether a kind of call that was refused is refused again without another try.
        groups: gives the ranks that decide together.
        blocks: paths of the blocks, where a person named them.
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
        groups: Callable[[], tuple[RankGroup, ...]] = tuple,
        blocks: tuple[str, ...] = (),
    ) -> None:
        self._lower = lower
        self._model = model
        self.config = config
        self._scope = scope
        self._inputs = inputs
        self._max_captures = max_captures
        self._remember = remember
        self._groups = groups
        self._blocks = blocks
        self._making = threading.RLock()  # held by the thread that looks for what is not known, or makes it
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
        with self._making:  # two threads that need the same graph make one
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
        with self._making:
            for kind in self._kinds.values():
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
            self._model,
            self.config,
            self._scope,
            self._inputs,
            bound,
            call.tensors,
            call.numbers,
            self._groups(),
            self._blocks,
        )
        specialization = Specialization.of(program, self._lower(program), call)
        specialization.number, specialization.flexible = self._calls, self.flexible
        if not specialization.accepts(call):
            raise CaptureError(type(self._model).__name__, {"guards": "they reject the captured call"})
        symbols = specialization.symbols[call.key]
        if program.groups and any(tensor.sizes(symbols) is None for tensor in program.state):
            why = "what it remembers has sizes that depend on values: to find them, all ranks would run it"
            raise CaptureError(type(self._model).__name__, {"processes": why})
        return specialization
