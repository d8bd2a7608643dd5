"""`TrajectoryState`: the state of one trajectory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from ..capture.call_signature import Call
from ..config import CacheConfig
from ..ir.state import record_of
from .flops import StepFlops
from .following import leader_of
from .host_plan import HostPlan
from .served_graph import Served


@dataclass(eq=False)
class TrajectoryState:
    """State of one trajectory: the tensors of the one under way, or what is left of it once over.

    config: the settings that its run has or had; None before its first step. host: what the host knows of
        the plan that it follows.
    """

    graph: Served | None = None
    call_key: tuple[Any, ...] = ()
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    uncached_steps: int = 0
    host: HostPlan = field(default_factory=HostPlan)
    config: CacheConfig | None = None
    _measured: tuple[Served, tuple[Any, ...]] | None = None

    def tensors(self, graph: Served, call: Call, config: CacheConfig) -> list[torch.Tensor]:
        """State for this call, with the settings of `config` where it is new.

        Anything but the same sizes, and a graph that shares it, starts clean.
        """
        if self.graph is not graph or self.call_key != call.key:
            before, same = self.graph, self.call_key == call.key
            if before is None or not same or not before.shares_state(graph, call.key):
                self.forget()
                self.state = graph.allocate(call, config)
                self._measured = (graph, call.key)
                self.config = config
            self.graph, self.call_key = graph, call.key
        return list(self.state.values())

    @property
    def leader(self) -> str | None:
        """The context that its own one follows."""
        return None if self.config is None else leader_of(self.config)

    def flops_counter(self) -> Callable[[], StepFlops | None]:
        """What counts the FLOPs of a step of the last trajectory, also when another has begun."""
        measured = self._measured
        return lambda: measured[0].flops(measured[1]) if measured else None

    def forget(self) -> None:
        """Drop the state, the record of the trajectory included."""
        self.graph, self.call_key, self.state, self.uncached_steps = None, (), {}, 0
        self.host = HostPlan()

    def finish(self) -> None:
        """End the trajectory: free what is remembered, keep the small record for `stats()`."""
        self.state = record_of(self.state)
        self.host = HostPlan()
        self.call_key = ()
