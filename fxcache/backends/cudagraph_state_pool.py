"""Keep the addresses of state from one trajectory to the next, for CUDA graphs.

A CUDA graph writes to the addresses that it was recorded with. torch records one that writes to its inputs
only where these are marked as staying where they are, and records it again where they do not: a state that
is allocated anew for each picture would mean a recording for each picture.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..torch_private import mark_static_address
from .host.dispatch import Runner


@dataclass
class PooledState:
    """Memory for one state. owner: the first tensor of the state that has it; dead once it is free."""

    memory: tuple[torch.Tensor, ...]
    owner: weakref.ref[torch.Tensor]

    def fits(self, state: Sequence[torch.Tensor]) -> bool:
        pairs = zip(self.memory, state, strict=True)
        return all(m.shape == t.shape and m.dtype == t.dtype and m.device == t.device for m, t in pairs)


class StatePool:
    """Memory that states of one graph have in turn. It is held for as long as the graph is."""

    def __init__(self) -> None:
        self._all: list[PooledState] = []
        self._lock = threading.Lock()

    def take(self, state: Sequence[torch.Tensor]) -> None:
        """Let `state` live at an address that no other does, one that was used before if possible.

        In place: the tensors stay the same objects. A state that has a seat keeps it.
        """
        owner = state[0]
        if any(seat.owner() is owner for seat in self._all):
            return
        with self._lock:  # two threads must not take the same
            seat = next((s for s in self._all if s.owner() is None and s.fits(state)), None)
            if seat is not None:
                seat.owner = weakref.ref(owner)
            else:
                with torch.inference_mode(False):  # a later trajectory may run outside of it
                    memory = tuple(torch.empty_like(t) for t in state)
                seat = PooledState(memory, weakref.ref(owner))
                self._all.append(seat)
        for place, tensor in zip(seat.memory, state, strict=True):
            place.copy_(tensor)
            tensor.set_(place)  # type: ignore[call-overload]
            mark_static_address(tensor)


def with_pooled_state(run: Runner, inputs: int) -> Runner:
    """`run`, whose state (its arguments behind the first `inputs`) keeps its addresses.

    Each call is a step of its own to CUDA graphs: what the last one gave may be overwritten.
    """
    seats = StatePool()

    def step(*values: Any) -> tuple[Any, ...]:
        seats.take(values[inputs:])
        torch.compiler.cudagraph_mark_step_begin()
        return run(*values)

    return step
