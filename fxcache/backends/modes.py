"""How TorchInductor runs a transformed graph, by name.

Importing this needs no torch: the command line lists them.
"""

from __future__ import annotations

from typing import Literal

Mode = Literal["fused", "single", "staged", "reduce-overhead"]
MODES: tuple[Mode, ...] = ("fused", "single", "staged", "reduce-overhead")
