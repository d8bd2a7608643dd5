"""What a step does, where the host knows it beforehand: then nobody waits for the device to say it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from torch import Tensor

_KNOWN: ContextVar[bool | None] = ContextVar("fxcache_known_decision", default=None)


def is_hit(hit: Tensor) -> bool:
    """The decision of a step: what is known, or else `hit`, a 0-dim bool that is waited for.

    Example:
        >>> import torch
        >>> from fxcache.ops.known_decision import is_hit, knowing
        >>> with knowing(True):
        ...     is_hit(torch.tensor(False))
        True
        >>> is_hit(torch.tensor(False))
        False
    """
    known = _KNOWN.get()
    return bool(hit) if known is None else known


@contextlib.contextmanager
def knowing(decision: bool | None) -> Iterator[None]:
    """Within the block, in this thread, a step is a hit or not; None: as the device says.

    Example:
        >>> import torch
        >>> from fxcache.ops.known_decision import is_hit, knowing
        >>> with knowing(None):
        ...     is_hit(torch.tensor(True))
        True
    """
    token = _KNOWN.set(decision)
    try:
        yield
    finally:
        _KNOWN.reset(token)
