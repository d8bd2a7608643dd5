"""A trace draws no random numbers: torch's generators go back to where they were."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from ..devices import random_states, set_random_states
from ..environment.refused_trace import RefusedTrace


@contextlib.contextmanager
def randomness_kept() -> Iterator[None]:
    """Put random number generators back; raises `RefusedTrace` where Python code drew numbers itself.

    What `random` or numpy gave would be a constant of the graph.
    """
    python, arrays, others = random.getstate(), np.random.get_state(), random_states()
    with torch.random.fork_rng(()):
        try:
            yield
        finally:
            set_random_states(others)
            drew = python != random.getstate() or not _same(arrays, np.random.get_state())
            random.setstate(python)
            np.random.set_state(arrays)
    if drew:
        raise RefusedTrace("its Python code draws random numbers from `random` or numpy, a new one each call")


@contextlib.contextmanager
def python_random_kept() -> Iterator[None]:
    """Put the generator of `random` back."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def _same(a: object, b: object) -> bool:
    return all(map(np.array_equal, a, b))  # type: ignore[call-overload]
