"""One more function that is told of Python's calls, whoever profiles this thread already."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

Told = Callable[[FrameType, str, Any], Any]


def cannot_share() -> str | None:
    """Why calls cannot be told to another function now; None where they can."""
    active: Any = sys.getprofile()
    if active is None or callable(active) or _stops(active):
        return None
    return (
        f"a profiler ({type(active).__name__}) is told of Python's calls, which a capture has to know; start "
        "it after the first call, or without stacks and modules"
    )


@contextlib.contextmanager
def told_of_calls(tell: Told) -> Iterator[None]:
    """Call `tell` as `sys.setprofile` says, in this thread. A profiler in C (`cProfile`) rests meanwhile."""
    active: Any = sys.getprofile()
    if _stops(active):
        active.disable()
    sys.setprofile(_both(active, tell) if callable(active) else tell)
    try:
        yield
    finally:
        sys.setprofile(active if callable(active) else None)
        if _stops(active):
            active.enable()


@contextlib.contextmanager
def untold() -> Iterator[None]:
    """Within, nobody is told of calls."""
    active = sys.getprofile()
    sys.setprofile(None)
    try:
        yield
    finally:
        sys.setprofile(active)


def _both(one: Told, other: Told) -> Told:
    def tell(frame: FrameType, event: str, argument: Any) -> None:
        one(frame, event, argument)
        other(frame, event, argument)

    return tell


def _stops(active: Any) -> bool:
    return not callable(active) and hasattr(active, "disable") and hasattr(active, "enable")
