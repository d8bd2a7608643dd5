"""Contexts: whose call is it? Each thread, and each name within it, has trajectories of its own."""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from collections.abc import Iterator
from contextvars import ContextVar

from .conditioning import Roles
from .context import Context
from .errors import TooManyContextsError
from .signature import Call
from .trajectories import Trajectories
from .variants import Variant

__all__ = ["DEFAULT", "Context", "Contexts"]

DEFAULT = "default"
Key = tuple[int, str]  # number of the thread, name: two threads may use the same names


class _ThreadMark:
    """Lives in a thread's local storage: freed when the thread ends."""

    def __init__(self, number: int) -> None:
        self.number = number


class Contexts:
    """All contexts of one transformed model, and which one is current.

    limit: how many contexts may hold state at once. The state of a thread's contexts is freed when the
    thread ends, that of all its contexts when a pipeline is done (`finish`).
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._all: dict[Key, Trajectories] = {}
        self._lock = threading.RLock()
        self._local = threading.local()
        self._numbers = itertools.count()
        self._name: ContextVar[str | None] = ContextVar("fxcache_context", default=None)

    def state_for(self, variant: Variant, call: Call) -> Context:
        """The state that `call` continues, in this thread and the enclosing `named` block.

        Raises `TooManyContextsError` where that would be one context more than the limit.
        """
        if variant.roles is None:
            variant.roles = Roles.of(variant, call)
        return self._trajectories().find(variant, call, variant.roles)

    def current(self) -> Context:
        """State of the last call in this thread and the enclosing `named` block."""
        return self._trajectories().current()

    def count_uncached(self) -> None:
        """A step of the current context ran without the cache."""
        self._trajectories().uncached_steps += 1

    def _trajectories(self) -> Trajectories:
        name = self._name.get()
        key = (self._thread(), DEFAULT if name is None else name)
        known = self._all.get(key)
        return known if known is not None else self._add(key, vouched=name is not None)

    def _thread(self) -> int:
        mark = getattr(self._local, "mark", None)
        if mark is None:
            mark = self._local.mark = _ThreadMark(next(self._numbers))
            ending = weakref.finalize(mark, _thread_ended, weakref.ref(self), mark.number)
            ending.atexit = False
        return mark.number

    def _add(self, key: Key, vouched: bool) -> Trajectories:
        with self._lock:
            if sum(t.live for t in self._all.values()) >= self.limit:
                raise TooManyContextsError(self.limit)
            spent = [k for k, t in self._all.items() if not t.live]
            for old in spent[: max(len(self._all) - self.limit, 0)]:  # records, too, are bounded
                del self._all[old]
            return self._all.setdefault(key, Trajectories(vouched))

    @contextlib.contextmanager
    def named(self, name: str) -> Iterator[None]:
        """Calls within the block use the context `name`."""
        token = self._name.set(name)
        try:
            yield
        finally:
            self._name.reset(token)

    def finish(self, thread: int | None = None) -> None:
        """End the trajectories of a thread, by default this one (diffusers calls it after a pipeline)."""
        number = self._thread() if thread is None else thread
        with self._lock:
            mine = [t for (owner, _), t in self._all.items() if owner == number]
        for trajectories in mine:
            trajectories.finish()

    def reset(self) -> None:
        """Forget everything of every context."""
        with self._lock:
            self._all.clear()

    def items(self) -> list[tuple[str, Context]]:
        """(label, state) of every trajectory.

        The trajectory of a context's last call has the context's name, those called before it `name/2`
        and so on; of a name that several threads use, the later ones are `name#1` and so on.
        """
        with self._lock:
            entries = list(self._all.items())
        threads: dict[str, list[int]] = {}
        labelled: list[tuple[str, Context]] = []
        for (thread, name), trajectories in entries:
            users = threads.setdefault(name, [])
            users.append(thread)
            label = name if len(users) == 1 else f"{name}#{len(users) - 1}"
            contexts = trajectories.contexts()
            if not contexts and trajectories.uncached_steps:
                contexts = [Context(uncached_steps=trajectories.uncached_steps)]
            for i, context in enumerate(contexts):
                labelled.append((label if i == 0 else f"{label}/{i + 1}", context))
        return labelled


def _thread_ended(contexts: weakref.ref[Contexts], thread: int) -> None:
    alive = contexts()
    if alive is not None:
        alive.finish(thread)
