"""One trace at a time, and nobody else runs the model that is being traced.

What a forward stores on fake tensors (a memo) is taken back when its trace is over; until then another
thread that runs the same model would find it.
"""

from __future__ import annotations

import threading

PATIENCE = 60.0  # seconds; a forward that hands work to other threads must not wait for itself for ever


class _Lock:
    """A lock that knows whether another thread holds it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._owners: list[int] = []

    def acquire(self, timeout: float = -1) -> bool:
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._owners.append(threading.get_ident())

    def __exit__(self, *_: object) -> None:
        self._owners.pop()
        self._lock.release()

    def held_elsewhere(self) -> bool:
        """Whether another thread traces now."""
        owners = self._owners[-1:]
        return bool(owners) and owners[0] != threading.get_ident()


LOCK = _Lock()


def wait() -> None:
    """Return when no other thread traces."""
    if LOCK.acquire(timeout=PATIENCE):
        LOCK.release()
