"""What it all runs on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from fxcache.benchmark.machine import describe, versions

from .rows import Check
from .setup import Setup

MORE = ("triton", "torch-tensorrt", "torch-tensorrt-rtx", "accelerate")


def machine(setup: Setup) -> Iterator[Check]:
    """One row for each fact."""
    for name, value in facts(setup).items():
        yield Check(name, partial(dict, value=value))


def facts(setup: Setup) -> dict[str, str]:
    """Names and versions. What a device does not tell is left out."""
    found = {"device": describe(setup.device), "kind": str(setup.device)}
    if setup.device.type != "cpu":
        found["devices"] = str(torch.accelerator.device_count())
        found.update(_properties(setup.device))
    if setup.device.type == "cuda":
        found["driver"] = _driver()
        found["CUDA of torch"] = str(torch.version.cuda or torch.version.hip)
    return {**found, **versions(MORE)}


def _properties(device: torch.device) -> dict[str, str]:
    properties: Any = torch.get_device_module(device).get_device_properties(device)
    wanted = {"memory, GiB": "total_memory", "multiprocessors": "multi_processor_count", "major": "major",
              "minor": "minor"}  # fmt: skip
    found = {name: getattr(properties, field) for name, field in wanted.items() if hasattr(properties, field)}
    if "major" in found:
        found["capability"] = f"{found.pop('major')}.{found.pop('minor')}"
    if "memory, GiB" in found:
        found["memory, GiB"] = f"{found['memory, GiB'] / 2**30:.1f}"
    return {name: str(value) for name, value in found.items()}


def _driver() -> str:
    """torch does not tell; the driver's own tool does, where there is one."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown: no nvidia-smi"
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    said = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False).stdout.split()
    return said[0] if said else "unknown"
