"""What a forward sets on its modules before it calls them.

A forward may act through Python state: diffusers multiplies the scale of every LoRA layer by
`attention_kwargs["scale"]` before the blocks run, and divides it afterwards. A graph of the calls would
skip that in silence. So while a forward is traced, each module is compared, when it is called, with
what it was before; plain values that were set are set again around every run of the graph, and
anything else is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from .opaque import PLAIN

TORCHS_OWN = frozenset({*nn.Module().__dict__, "_compiled_call_impl"}) - {"training"}
_LOCK = threading.RLock()  # modules are shared: runs that set their state go one at a time


@dataclass(frozen=True)
class Effect:
    """`table[key]`, before the forward and when the module that owns it is called."""

    table: dict[Any, Any]
    key: Any
    before: Any
    during: Any


class UnrepeatableEffect(Exception):
    """The forward sets something on a module that cannot be set again from outside."""


class EffectWatch:
    """Finds what a forward sets on the leaves while it is traced."""

    def __init__(self, leaves: Iterable[nn.Module]) -> None:
        self._known: dict[nn.Module, dict[str, Any]] = {}
        self._found: dict[tuple[int, Any], Effect] = {}
        for leaf in leaves:
            self.ran(leaf)

    @property
    def found(self) -> tuple[Effect, ...]:
        return tuple(self._found.values())

    def called(self, name: str, leaf: nn.Module) -> None:
        """Compare `leaf`, about to run. Raises `UnrepeatableEffect`."""
        for module in leaf.modules():
            known, own = self._known.get(module), module.__dict__
            if known is None:
                continue
            for attribute in known.keys() | (own.keys() - TORCHS_OWN):
                self._compare(f"{name} ({type(module).__name__}.{attribute})", own, attribute, known)

    def ran(self, leaf: nn.Module) -> None:
        """What `leaf` set on itself is its own affair: it does so again whenever it runs."""
        for module in leaf.modules():
            own = module.__dict__
            self._known[module] = {n: _copied(own[n]) for n in own.keys() - TORCHS_OWN}

    def _compare(self, where: str, own: dict[str, Any], attribute: str, known: dict[str, Any]) -> None:
        if attribute not in own or attribute not in known:
            raise UnrepeatableEffect(f"the forward adds or removes '{where}' before calling it")
        was, now = known[attribute], own[attribute]
        if isinstance(was, _Content) and was.holder is now:
            if list(was.items) != _keys(now):
                raise UnrepeatableEffect(f"the forward adds to or removes from '{where}' before calling it")
            for key, before in was.items.items():
                self._settle(where, now, key, before, now[key])
        else:
            self._settle(where, own, attribute, was.holder if isinstance(was, _Content) else was, now)

    def _settle(self, where: str, table: Any, key: Any, before: Any, now: Any) -> None:
        place = (id(table), key)
        earlier = self._found.get(place)
        if earlier is not None and not _same(earlier.during, now):
            raise UnrepeatableEffect(f"the forward sets '{where}' to several values in one call")
        if earlier is not None or _same(before, now):
            return
        if not (isinstance(table, dict) and isinstance(before, PLAIN) and isinstance(now, PLAIN)):
            kind = type(now).__name__
            raise UnrepeatableEffect(f"the forward sets '{where}' to a {kind} before calling it")
        self._found[place] = Effect(table, key, before, now)


@dataclass(frozen=True)
class _Content:
    """A mapping or list and what it held: it is compared item by item."""

    holder: Any
    items: Mapping[Any, Any]


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return _Content(value, dict(value))
    if isinstance(value, list):
        return _Content(value, dict(enumerate(value)))
    return value


def _keys(value: Any) -> list[Any]:
    return list(value) if isinstance(value, dict) else list(range(len(value)))


def _same(a: Any, b: Any) -> bool:
    return a is b or (isinstance(a, PLAIN) and type(a) is type(b) and bool(a == b))


def with_effects(run: Callable[..., Any], effects: tuple[Effect, ...]) -> Callable[..., Any]:
    """`run`, with `effects` in force while it runs."""
    if not effects:
        return run

    def running(*args: Any) -> Any:
        with _LOCK:
            try:
                for effect in effects:
                    effect.table[effect.key] = effect.during
                return run(*args)
            finally:
                for effect in effects:
                    effect.table[effect.key] = effect.before

    running.__wrapped__ = run  # type: ignore[attr-defined]  # for `inspect.unwrap`
    return running
