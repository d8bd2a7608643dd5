"""Whose call is it? Each thread, and each name within it, has something of its own."""

from __future__ import annotations

import contextlib
import itertools
import threading
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Generic, Protocol, TypeVar

from ..errors import TooManyContextsError

DEFAULT = "default"
Key = tuple[int, str]  # number of the thread, name: two threads may use the same names


class Owned(Protocol):
    """What a caller has. live: whether it holds state."""

    @property
    def live(self) -> bool: ...

    def finish(self) -> None:
        """Free the state; a record may stay."""
        ...


T = TypeVar("T", bound=Owned)


class _ThreadMark:
    """Lives in a thread's local storage: freed when the thread ends."""

    def __init__(self, number: int) -> None:
        self.number = number


class PerCaller(Generic[T]):
    """What each caller has, made by `make` when it is first asked for; that is told whether it has a name.

    limit: how many may hold state at once. The state of a thread is freed when the thread ends, or when a
    pipeline that ran in it is done (`finish`).
    """

    def __init__(self, limit: int, make: Callable[[bool], T]) -> None:
        self.limit = limit
        self._make = make
        self._all: dict[Key, T] = {}
        self._lock = threading.RLock()
        self._local = threading.local()
        self._numbers = itertools.count()
        self._name: ContextVar[str | None] = ContextVar("fxcache_context", default=None)

    def current(self) -> T:
        """What this thread has in the enclosing `named` block.

        Raises `TooManyContextsError` where it would be one more than the limit.
        """
        name = self._name.get()
        key = (self._thread(), DEFAULT if name is None else name)
        known = self._all.get(key)
        return known if known is not None else self._add(key, named=name is not None)

    @property
    def name(self) -> str:
        """That of the enclosing `named` block; "default" outside of any."""
        name = self._name.get()
        return DEFAULT if name is None else name

    def of(self, name: str) -> T | None:
        """What this thread has by this name; None where it never asked for it."""
        return self._all.get((self._thread(), name))

    def _thread(self) -> int:
        mark = getattr(self._local, "mark", None)
        if mark is None:
            mark = self._local.mark = _ThreadMark(next(self._numbers))
            ending = weakref.finalize(mark, _thread_ended, weakref.ref(self), mark.number)
            ending.atexit = False
        return mark.number

    def _add(self, key: Key, named: bool) -> T:
        with self._lock:
            if sum(t.live for t in self._all.values()) >= self.limit:
                raise TooManyContextsError(self.limit)
            spent = [k for k, t in self._all.items() if not t.live]
            for old in spent[: max(len(self._all) - self.limit, 0)]:  # records, too, are bounded
                del self._all[old]
            return self._all.setdefault(key, self._make(named))

    @contextlib.contextmanager
    def named(self, name: str) -> Iterator[None]:
        """Calls within the block are those of `name`."""
        token = self._name.set(name)
        try:
            yield
        finally:
            self._name.reset(token)

    def finish(self, thread: int | None = None) -> None:
        """Free the state of a thread, by default this one (diffusers asks for it after a pipeline)."""
        number = self._thread() if thread is None else thread
        with self._lock:
            mine = [t for (owner, _), t in self._all.items() if owner == number]
        for owned in mine:
            owned.finish()

    def reset(self, name: str | None = None) -> None:
        """Forget everything of every caller; of a name, what each thread has by it."""
        with self._lock:
            for key in [k for k in self._all if name is None or k[1] == name]:
                del self._all[key]

    def entries(self) -> list[tuple[str, T]]:
        """All, by name; of a name that several threads use, the later ones are `name#1` and so on."""
        with self._lock:
            entries = list(self._all.items())
        users: dict[str, int] = {}
        labelled: list[tuple[str, T]] = []
        for (_, name), owned in entries:
            count = users[name] = users.get(name, -1) + 1
            labelled.append((f"{name}#{count}" if count else name, owned))
        return labelled


def _thread_ended(callers: weakref.ref[PerCaller[T]], thread: int) -> None:
    alive = callers()
    if alive is not None:
        alive.finish(thread)
