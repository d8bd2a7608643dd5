"""What one rank does: all scenarios of a kind in one process group, their findings as JSON.

Run by `torch.distributed.run`; `launch.py` starts it. A scenario is a function of no arguments whose findings
tests look at. One that fails ends the worker, as the ranks are out of step then.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.behaviour.processes import shim

TIMEOUT = 120  # seconds that a collective waits for a peer, which may compile


def by_name(*scenarios: Callable[[], Any]) -> dict[str, Callable[[], Any]]:
    """Functions by their own names, in order."""
    return {scenario.__name__: scenario for scenario in scenarios}


def main(scenarios: dict[str, Callable[[], Any]], folder: str, names: list[str]) -> None:
    """Run those that are named, in order, and write what this rank found to `folder`."""
    torch.set_num_threads(1)
    shim.install()
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=TIMEOUT))
    found: dict[str, Any] = {}
    path = Path(folder) / f"{dist.get_rank()}.json"
    for name in names:
        start = time.monotonic()
        try:
            found[name] = scenarios[name]()
        except BaseException:
            found[name] = {"error": traceback.format_exc()}
            path.write_text(json.dumps(found))
            raise
        print(f"{name}: {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)
        path.write_text(json.dumps(found))
    dist.destroy_process_group()


def gathered(value: Any) -> list[Any]:
    """`value` of every rank."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
