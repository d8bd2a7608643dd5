"""How busy others keep the processor while something is timed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

STAT = Path("/proc/stat")
BUSY = (
    1,
    2,
    3,
    6,
    7,
    8,
)  # columns of its first line: user, nice, system, irq, softirq, steal; not idle, iowait


def watch_others(device: torch.device) -> Callable[[], float | None]:
    """Begin to watch; the result says how many cores' worth of time others took since then, on average.

    None where that cannot be known: without /proc, and on a GPU, where it is not the processor that is timed.
    """
    if device.type != "cpu" or not STAT.is_file():
        return lambda: None
    begin, busy, own = time.perf_counter(), _busy_seconds(), _own_seconds()

    def others() -> float | None:
        wall = time.perf_counter() - begin
        return max(_busy_seconds() - busy - (_own_seconds() - own), 0.0) / wall

    return others


def _busy_seconds() -> float:
    columns = STAT.read_text().split("\n", 1)[0].split()
    return sum(int(columns[c]) for c in BUSY) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system
