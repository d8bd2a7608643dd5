"""Several processes share a run: each takes its batches, as torchrun and accelerate number them.

Where several draw one sample together (context parallelism) they are a team: teams take batches, and the
first process of each writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from ..devices import accelerator
from .errors import ProcessesError
from .peers import USUAL, Patience, Peers, meet

T = TypeVar("T")


@dataclass(frozen=True)
class Share:
    """This process, or its team, among `world`. local: its number on this machine, which chooses its device.

    team: how many processes draw a sample together. member: which of them this is.
    peers: the way to the others, while `together`.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    team: int = 1
    member: int = 0
    peers: Peers | None = None

    @classmethod
    def of_environment(cls, team: int = 1) -> Share:
        """From RANK, WORLD_SIZE and LOCAL_RANK; alone without them. Neighbors are a team.

        Raises `ProcessesError` where the processes make no whole number of teams.
        """
        rank, world, local = (
            int(os.environ.get(n, d)) for n, d in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
        )
        if world % team:
            raise ProcessesError(team, world)
        return cls(rank // team, world // team, local, team, rank % team)

    @property
    def process(self) -> int:
        """The number of this process among `processes`."""
        return self.rank * self.team + self.member

    @property
    def processes(self) -> int:
        """How many processes there are."""
        return self.world * self.team

    @property
    def writes(self) -> bool:
        """Whether this process writes what its team drew."""
        return self.member == 0

    def of(self, items: Sequence[T]) -> list[T]:
        """Every world-th item, from the rank-th on."""
        return list(items[self.rank :: self.world])

    def device(self, name: str | None) -> torch.device:
        """The named device, or this process's GPU where there is one, else the CPU."""
        kind = accelerator()
        if name is not None:
            device = torch.device(name)
            own = self.team > 1 and device.index is None and device.type == kind
            return torch.device(device.type, self.local) if own else device
        return torch.device("cpu") if kind is None else torch.device(kind, self.local)

    @contextmanager
    def together(self, patience: Patience = USUAL) -> Iterator[Share]:
        """This share, with its peers where there are any. Leaving by an error tells them."""
        if self.processes == 1:
            yield self
            return
        with meet(self.process, self.processes, patience) as peers:
            yield replace(self, peers=peers)

    def exchange(self, value: T) -> list[T]:
        """Every process's value, in the order of ranks. Waits for all of them.

        Raises `LostProcessError`.
        """
        if self.processes == 1:
            return [value]
        if self.peers is None:
            raise RuntimeError(f"process {self.process} of {self.processes} is not together with the others")
        return self.peers.exchange(value)

    def led(self, value: T) -> T:
        """The value of the first process of this one's team. Waits for all teams, where there are."""
        return value if self.team == 1 else self.exchange(value)[self.process - self.member]
