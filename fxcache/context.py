"""`Context`: the state of one trajectory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from .flops import StepFlops
from .signature import Call
from .state import record_of
from .variants import Variant


@dataclass(eq=False)
class Context:
    """State of one trajectory: the tensors of the one under way, or what is left of it once over."""

    variant: Variant | None = None
    call_key: tuple[Any, ...] = ()
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    uncached_steps: int = 0
    _measured: tuple[Variant, tuple[Any, ...]] | None = None

    def tensors(self, variant: Variant, call: Call) -> list[torch.Tensor]:
        """State for this call; anything but the same variant at the same sizes starts clean."""
        if self.variant is not variant or self.call_key != call.key:
            self.forget()
            self.state = variant.allocate(call)
            self.variant, self.call_key = variant, call.key
            self._measured = (variant, call.key)
        return list(self.state.values())

    def flops(self) -> StepFlops | None:
        """FLOPs of a step of the last trajectory."""
        return self._measured[0].flops(self._measured[1]) if self._measured else None

    def forget(self) -> None:
        """Drop the state, the record of the trajectory included."""
        self.variant, self.call_key, self.state, self.uncached_steps = None, (), {}, 0

    def finish(self) -> None:
        """End the trajectory: free what is remembered, keep the small record for `stats()`."""
        self.state = record_of(self.state)
        self.call_key = ()
