"""A trace draws no random numbers: torch's generators go back to where they were."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from ..environment.refused_trace import RefusedTrace


@contextlib.contextmanager
def randomness_kept() -> Iterator[None]:
    """Put random number generators back; raises `RefusedTrace` where Python code drew numbers itself.

    What `random` or numpy gave would be a constant of the graph.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            drew = python != random.getstate() or not _same(arrays, np.random.get_state())
            random.setstate(python)
            np.random.set_state(arrays)
    if drew:
        raise RefusedTrace("its Python code draws random numbers from `random` or numpy, a new one each call")


def _same(a: object, b: object) -> bool:
    return all(map(np.array_equal, a, b))  # type: ignore[call-overload]
