"""Several processes share a run: each takes its batches, as torchrun and accelerate number them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from ..devices import accelerator
from .peers import USUAL, Patience, Peers, meet

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """This process among `world`. local: its number on this machine, which chooses its device.

    peers: the way to the others, while `together`.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    peers: Peers | None = None

    @classmethod
    def of_environment(cls) -> Share:
        """From RANK, WORLD_SIZE and LOCAL_RANK; alone without them."""
        rank, world, local = (
            int(os.environ.get(n, d)) for n, d in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
        return cls(rank, world, local)

    def of(self, items: Sequence[T]) -> list[T]:
        """Every world-th item, from the rank-th on."""
        return list(items[self.rank :: self.world])

    def device(self, name: str | None) -> torch.device:
        """The named device, or this process's GPU where there is one, else the CPU."""
        if name is not None:
            return torch.device(name)
        kind = accelerator()
        return torch.device("cpu") if kind is None else torch.device(kind, self.local)

    @contextmanager
    def together(self, patience: Patience = USUAL) -> Iterator[Share]:
        """This share, with its peers where there are any. Leaving by an error tells them."""
        if self.world == 1:
            yield self
            return
        with meet(self.rank, self.world, patience) as peers:
            yield replace(self, peers=peers)

    def exchange(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks. Waits for all of them.

        Raises `LostProcessError`.
        """
        if self.world == 1:
            return [value]
        if self.peers is None:
            raise RuntimeError(f"process {self.rank} of {self.world} is not together with the others")
        return self.peers.exchange(value)
