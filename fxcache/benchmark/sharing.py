"""Several processes share a run: each takes its batches, as torchrun and accelerate number them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..devices import accelerator

T = TypeVar("T")
PATIENCE = timedelta(days=2)  # a process may have finished its share long before another


@dataclass(frozen=True)
class Share:
    """This process among `world`. local: its number on this machine, which chooses its device."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @classmethod
    def of_environment(cls) -> Share:
        """From RANK, WORLD_SIZE and LOCAL_RANK; alone without them."""
        numbers = (
            int(os.environ.get(n, d)) for n, d in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
        return cls(*numbers)

    def of(self, items: Sequence[T]) -> list[T]:
        """Every world-th item, from the rank-th on."""
        return list(items[self.rank :: self.world])

    def device(self, name: str | None) -> torch.device:
        """The named device, or this process's GPU where there is one, else the CPU."""
        if name is not None:
            return torch.device(name)
        kind = accelerator()
        return torch.device("cpu") if kind is None else torch.device(kind, self.local)

    def exchange(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks. Waits for all of them."""
        if self.world == 1:
            return [value]
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=PATIENCE)
        gathered: list[Any] = [None] * self.world
        dist.all_gather_object(gathered, value)
        return gathered

    def leave(self) -> None:
        """Close what `exchange` opened."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()
