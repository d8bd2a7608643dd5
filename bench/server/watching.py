"""What must not grow: memory, tensors, state, captures."""

from __future__ import annotations

import ctypes
import gc
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from .models import CachedModels


@dataclass(frozen=True)
class Sample:
    """At the end of a round, when no request is under way and the threads are still there.

    served: requests so far. rss: bytes of the process in memory. tensors: that Python knows.
    state: bytes that contexts hold, which are records of runs that are over. captures: graphs.
    """

    served: int
    rss: int
    tensors: int
    state: int
    captures: int
    threads: int


def sample(served: int, models: CachedModels) -> Sample:
    """Look at it all, without what waits to be collected or to be given back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch's own names, which `isinstance` touches
        tensors = sum(isinstance(found, torch.Tensor) for found in gc.get_objects())
    return Sample(
        served, _resident(), tensors, models.state_bytes(), models.captures(), threading.active_count()
    )


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))
