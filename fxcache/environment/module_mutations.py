"""What a forward does to Python state, found while it is traced and done again whenever its graph runs.

Two kinds. An *effect* is in force while the modules run: diffusers multiplies the scale of every LoRA layer
by `attention_kwargs["scale"]` before the blocks run, and divides it afterwards. A *final write* stays: a
memo, a counter, the last features. A graph of the calls would skip both in silence. What a module writes
while it runs is its own affair: it does so again whenever it runs.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FrameType, FunctionType
from typing import Any

from torch import nn

from .executed_code import Names, names_of
from .opaque_objects import PLAIN
from .reachable_state import MISSING, TORCHS_OWN, Place, is_library, same, unchanged, walk
from .written_by_code import places_written

_LOCK = threading.RLock()  # modules are shared: runs that set their state go one at a time
DEPTH = 8  # a helper object and what it holds; a hook may reach the whole program
Key = tuple[int, Any]  # of a value: which holder, and its key there


@dataclass(frozen=True)
class Effect:
    """A plain value before the forward, and when the modules are called."""

    place: Place
    key: Any
    before: Any
    during: Any


@dataclass(frozen=True)
class FinalWrite:
    """A value after the forward; `MISSING` where it was taken out."""

    place: Place
    key: Any
    value: Any

    @property
    def name(self) -> str:
        """How a person would write it."""
        return self.place.named(self.key)


class UnrepeatableEffect(Exception):
    """The forward sets something that cannot be set again from outside."""


@dataclass(eq=False)
class _Tracked:
    """A place, and what it held at the last look."""

    place: Place
    known: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.look()

    def look(self) -> None:
        """Take what the place holds now for known."""
        self.known = self.place.content()

    def changes(self) -> Iterator[tuple[Any, Any, Any]]:
        """(key, before, now) of every value that changed since the last look."""
        now, known = self.place.content(), self.known
        if unchanged(now, known):
            return
        self.known = now
        for key in [*known, *(k for k in now if k not in known)]:
            before, after = known.get(key, MISSING), now.get(key, MISSING)
            if before is not after:
                yield key, before, after


class WriteWatch:
    """Finds what the glue of a forward writes while it is traced.

    Args:
        model: its root.
        leaves: the modules that run whole, by name.
    """

    def __init__(self, model: nn.Module, leaves: Mapping[str, nn.Module]) -> None:
        self._leaves = leaves
        self._within = {id(m) for leaf in leaves.values() for m in leaf.modules()}
        self._known: set[int] = set()
        self._glue: list[_Tracked] = []
        self.calling(model)
        self._of_leaf = {
            id(module): _of_module(path, module)
            for name, leaf in leaves.items()
            for path, module in leaf.named_modules(prefix=name)
        }
        self._before: dict[Key, Any] = {}
        self._now: dict[Key, FinalWrite] = {}
        self._effects: dict[Key, Effect] = {}

    def running(self, frame: FrameType, names: Names) -> None:
        """Code is about to run for the first time."""
        self._glue += [_Tracked(p) for p in places_written(frame, names)]

    def calling(self, module: nn.Module) -> None:
        """`module`, which the model need not hold, is about to be called for the first time."""
        if id(module) in self._within or id(module.__dict__) in self._known:
            return
        for place in walk(
            [(type(module).__name__, module)], lambda m: id(m) not in self._within, depth=DEPTH
        ):
            if id(place.holder) not in self._known:
                self._known.add(id(place.holder))
                self._glue.append(_Tracked(place))

    def called(self, name: str, leaf: nn.Module) -> None:
        """`leaf` is about to run. Raises `UnrepeatableEffect`."""
        self._look(self._glue)
        for module in leaf.modules():
            own = self._of_leaf.get(id(module), [])
            self._look(own)
            for tracked in own:
                for write in self._in_force(tracked):
                    self._settle(write, name, sure=True)
        for tracked in self._glue:
            for write in self._in_force(tracked):
                self._settle(write, name, sure=False)

    def ran(self, leaf: nn.Module) -> None:
        """What `leaf` wrote is its own affair."""
        for tracked in self._glue:
            tracked.look()
        for module in leaf.modules():
            for tracked in self._of_leaf.get(id(module), []):
                tracked.look()

    def finished(self) -> tuple[FinalWrite, ...]:
        """What the glue wrote and left so."""
        self._look(self._glue)
        for own in self._of_leaf.values():
            self._look(own)
        return tuple(w for k, w in self._now.items() if not same(self._before[k], w.value))

    @property
    def effects(self) -> tuple[Effect, ...]:
        """What was in force when modules ran."""
        return tuple(self._effects.values())

    def _look(self, places: list[_Tracked]) -> None:
        for tracked in places:
            place = tracked.place
            for key, before, now in tracked.changes():
                self._before.setdefault((id(place.holder), key), before)
                self._now[id(place.holder), key] = FinalWrite(place, key, now)

    def _in_force(self, tracked: _Tracked) -> list[FinalWrite]:
        if not self._now:
            return []
        holder = id(tracked.place.holder)
        return [w for (h, _), w in self._now.items() if h == holder]

    def _settle(self, write: FinalWrite, leaf: str, sure: bool) -> None:
        """Note a value that was set when `leaf` is called. sure: whether it is the leaf's own."""
        place = (id(write.place.holder), write.key)
        before, now = self._before[place], write.value
        earlier = self._effects.get(place)
        if earlier is None and same(before, now):
            return
        plain = isinstance(before, PLAIN) and isinstance(now, PLAIN)
        if not sure and not (plain and str(write.key) in self._named_by_leaves):
            return  # a memo of the glue: blocks are given what they need of it
        if earlier is not None and not same(earlier.during, now):
            raise UnrepeatableEffect(f"the forward sets '{write.name}' to several values in one call")
        if MISSING in (before, now):
            raise UnrepeatableEffect(f"the forward adds or removes '{write.name}' before calling '{leaf}'")
        if not plain:
            kind = type(now).__name__
            raise UnrepeatableEffect(f"the forward sets '{write.name}' to a {kind} before calling '{leaf}'")
        self._effects[place] = Effect(write.place, write.key, before, now)

    @functools.cached_property
    def _named_by_leaves(self) -> frozenset[str]:
        """Names of attributes that the code of the leaves' classes reads."""
        modules = (m for leaf in self._leaves.values() for m in leaf.modules())
        classes = {cls for m in modules for cls in type(m).__mro__ if not is_library(cls.__module__)}
        functions = (f for cls in classes for f in vars(cls).values() if isinstance(f, FunctionType))
        return frozenset().union(*(names_of(f.__code__).attributes for f in functions))


def _of_module(path: str, module: nn.Module) -> list[_Tracked]:
    own = module.__dict__
    held = {n: v for n, v in own.items() if n not in TORCHS_OWN and isinstance(v, (dict, list))}
    return [
        _Tracked(Place(path, own, None, attributes=True, omitted=TORCHS_OWN)),
        *(_Tracked(Place(f"{path}.{n}", v)) for n, v in held.items()),
    ]


def with_effects(run: Callable[..., Any], effects: tuple[Effect, ...]) -> Callable[..., Any]:
    """`run`, with `effects` in force while it runs."""
    if not effects:
        return run

    def running(*args: Any) -> Any:
        with _LOCK:
            try:
                for effect in effects:
                    effect.place.set(effect.key, effect.during)
                return run(*args)
            finally:
                for effect in effects:
                    effect.place.set(effect.key, effect.before)

    running.__wrapped__ = run  # type: ignore[attr-defined]  # for `inspect.unwrap`
    return running
