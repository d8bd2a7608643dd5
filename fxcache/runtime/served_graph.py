"""What trajectories know of a graph, be it captured here or loaded from a package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from ..capture.call_signature import Call
from ..ir.roles import Roles
from ..plans import Plan
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
    def plans(self) -> tuple[Plan, ...]:
        """The plans by which the host may decide; none where the decision lies in compiled code."""
        ...

    def allocate(self, call: Call) -> dict[str, torch.Tensor]:
        """Fresh state for the sizes of `call`, by name and in order."""
        ...

    def shares_state(self, other: Served, call_key: tuple[Any, ...]) -> bool:
        """Whether a trajectory of calls with this key may go on from this graph to the other."""
        ...

    def flops(self, call_key: tuple[Any, ...]) -> StepFlops | None:
        """FLOPs of a step at the sizes of a call, None where they are not known."""
        ...
