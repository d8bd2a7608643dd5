"""Warnings that point at the user's line, however many of our and torch's frames lie between."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from types import FrameType

from ..errors import IgnoredOptionWarning
from ..spelling import nearest

BETWEEN = frozenset({"fxcache", "torch"})


def warn(message: str, kind: type[Warning]) -> None:
    """Warn of `message` at the line that called into fxcache."""
    frame: FrameType | None = sys._getframe(1)
    level = 2
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in BETWEEN:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, kind, stacklevel=level)


def warn_absent(model: str, path: str, known: Sequence[str]) -> None:
    """Say that an option to be ignored is not there, and what is."""
    names = {there.rpartition(".")[2]: there for there in known}
    close = nearest(path.rpartition(".")[2], names)
    there = f"did you mean {names[close]!r}?" if close else f"there is {', '.join(known) or 'nothing'}"
    warn(f"{path!r} of ignore= is in no call of {model} so far: {there}", IgnoredOptionWarning)
