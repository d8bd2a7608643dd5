"""All sections, in this order: what matters most comes before the budget ends."""

from __future__ import annotations

from collections.abc import Mapping

from .cuda_graphs import cuda_graphs
from .devices import devices
from .engines import engines
from .machine import machine
from .modes import modes, settings
from .packages import packages
from .rows import MakeChecks
from .timings import timings

SECTIONS: Mapping[str, MakeChecks] = {
    "machine": machine,
    "modes": modes,
    "cuda-graphs": cuda_graphs,
    "packages": packages,
    "timings": timings,
    "devices": devices,
    "tensorrt": engines,
    "settings": settings,
}
