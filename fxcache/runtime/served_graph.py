"""What trajectories know of a graph, be it captured here or loaded from a package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from ..capture.call_signature import Call
from ..config import CacheConfig
from ..ir.roles import Roles
from .flops import StepFlops


class Served(Protocol):
    """A graph that serves calls; two calls are of the same graph where it is the same object.

    run: takes a call's tensors and the state tensors; returns the flat outputs. roles: what the tensors are
    for. segments: how many decisions a step makes.
    """

    @property
    def run(self) -> Callable[..., tuple[Any, ...]]: ...

    @property
    def roles(self) -> Roles: ...

    @property
    def segments(self) -> int: ...

    @property
    def asks_host(self) -> bool:
        """Whether the host may decide a step of a plan; not where the decision lies in compiled code."""
        ...

    def allocate(self, call: Call, config: CacheConfig) -> dict[str, torch.Tensor]:
        """Fresh state for the sizes of `call`, with the settings of `config`, by name and in order."""
        ...

    def shares_state(self, other: Served, call_key: tuple[Any, ...]) -> bool:
        """Whether a trajectory of calls with this key may go on from this graph to the other."""
        ...

    def flops(self, call_key: tuple[Any, ...]) -> StepFlops | None:
        """FLOPs of a step at the sizes of a call, None where they are not known."""
        ...
