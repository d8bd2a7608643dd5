"""On what a run was made, for its report."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ..devices import name_of

PACKAGES = ("fxcache", "torch", "diffusers", "transformers", "torchmetrics", "cache-dit")


def versions(more: Sequence[str] = ()) -> dict[str, str]:
    """Versions of Python and of the packages that matter, and of `more`, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *more):
        version = installed(name)
        if version is not None:
            found[name] = version
    return found


def installed(name: str) -> str | None:
    """The version of a package; None where it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe(device: torch.device) -> str:
    """The device in words: a GPU's name, or the processor's and how many threads are used."""
    if device.type != "cpu":
        return name_of(device) or device.type
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def stopwatch(device: torch.device) -> tuple[Callable[[], float], str]:
    """The clock that latencies are read from, and what it shows.

    On one thread of a CPU the process's own time is what a drawing takes, whatever else the machine
    does at the moment; elsewhere only the wall clock sees the whole of it.
    """
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return time.process_time, "processor time of one thread"
    return time.perf_counter, "wall clock"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def command(*words: str, options: Sequence[tuple[str, object]]) -> str:
    """A command line that can be typed again; options that are None or False are left out."""
    parts = ["fxcache", *words]
    for name, value in options:
        if value is True:
            parts.append(name)
        elif value is not None and value is not False:
            parts += [*filter(None, [name]), str(value)]  # without a name: one more value of the last option
    return shlex.join(parts)
