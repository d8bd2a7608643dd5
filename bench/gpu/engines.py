"""TensorRT: engines built, run and compared, as `python -m bench.tensorrt` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from bench.tensorrt import verify
from fxcache.errors import TensorRTDeviceError, TensorRTMissingError

from .rows import Cells, Check, CheckFailed, NotHere
from .setup import Setup

BUILDING = 150.0  # seconds, generously
CONFIG, DTYPE = "F1B0_W4M0MC3_T1O1_R0.12", "bf16"


def engines(setup: Setup, verify: Callable[..., dict[str, Any]] = verify) -> Iterator[Check]:
    """One check that builds them all, and a row for each thing that it found."""
    report: dict[str, Any] = {}

    def build() -> Cells:
        try:
            report.update(verify(CONFIG, DTYPE, 10 if setup.quick else 28))
        except (TensorRTMissingError, TensorRTDeviceError) as error:
            raise NotHere(f"not installed, or no GPU: {error}") from error
        cells: Cells = {"error without refit": report["without_refit"]}
        if not report["without_refit"] > report["tolerance"]:
            raise CheckFailed("engines of before the refit have the new weights' numbers", cells)
        return cells

    yield Check("embedded FLUX, built and run", build, BUILDING)
    if not report:
        return
    for row in report["rows"]:
        cells = {name: value for name, value in row.items() if name != "backend"}
        yield Check(row["backend"], partial(_judged, cells, report["tolerance"]))
    for name, error in report["errors"].items():
        yield Check(name, partial(_judged, {"error": error}, report["tolerance"]))


def _judged(cells: Cells, limit: float) -> Cells:
    if not float(cells["error"]) <= limit or not cells.get("same_hits", True):
        raise CheckFailed(f"not eager's numbers or hits (limit {limit:g})", cells)
    return cells
