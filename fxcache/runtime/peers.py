"""The other processes: a call must be the same on all ranks, or they wait for each other for ever.

What a step does is agreed on in the graph. That a call can be captured at all, and as what graph, the ranks
tell one another here, at the first call of each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn

from ..capture.rank_groups import parallelism, rank_groups, several_processes
from ..errors import AloneError, ArgumentsError, FxcacheError, PeersError
from ..ir.program import Program
from ..ir.ranks import Agree, RankGroup
from ..ir.settings import IN_GRAPH, digest

T = TypeVar("T")
Key = tuple[Any, ...]
MAX_KINDS = 256
CACHED, UNCACHED, GRADIENT = "runs cached", "runs uncached", "runs with gradients"


@dataclass(frozen=True)
class Ballot:
    """What a rank makes of a call.

    mode: what it does, in words. facts: what of that must be the same, by name. failed: why it does nothing.
    """

    rank: int
    mode: str
    facts: Mapping[str, str] = field(default_factory=dict)
    failed: str | None = None

    def unlike(self, other: Ballot) -> str | None:
        """In what it differs from another, in words."""
        if self.mode != other.mode:
            return f"rank {self.rank} {self.mode}, rank {other.rank} {other.mode}"
        for name, value in self.facts.items():
            if other.facts.get(name) != value:
                return f"rank {self.rank} has the {name} {value}, rank {other.rank} {other.facts.get(name)}"
        return None


class Peers:
    """The ranks that decide with this one, for one cached model."""

    def __init__(self, model: nn.Module, given: Any, agree: Agree) -> None:
        """Raises `ConfigError` where `given` is no group."""
        self._model, self._given, self._agree = model, given, agree
        self._fresh = True  # whether no call was made; parallelism may come after `transform`
        self._settled: dict[Key, FxcacheError | None] = {}
        self._look()

    def _look(self) -> None:
        self._seen = parallelism(self._model)
        self.groups: tuple[RankGroup, ...] = rank_groups(self._model, self._given, self._agree)

    def changed(self) -> bool:
        """Whether the model was parallelized otherwise since the last look; looks again then."""
        if self._seen == parallelism(self._model):
            return False
        self.look_again()
        return True

    def look_again(self) -> tuple[RankGroup, ...]:
        """The groups, by another look at how the model is parallelized."""
        before = self.groups
        self._look()
        if self.groups != before:
            self._settled.clear()
        return self.groups

    @property
    def unknown(self) -> bool:
        """Whether there are other processes, and neither model nor user says which decide together."""
        return not self.groups and self._given is not None and several_processes()

    def settle(
        self, call: Key, mode: str, make: Callable[[], T], told: Callable[[T], Mapping[str, str]]
    ) -> T:
        """What `make()` gives; where the ranks have not yet said what they make of such calls, they do now.

        call: what tells the kinds of calls apart; it counts where all ranks are given the same one.
        told: what of the outcome must be the same.

        Raises:
            PeersError: another rank failed, or does something else. AloneError: `make` fails on what was
            agreed on before. And what `make` raises; the other ranks raise, too.
        """
        if self._fresh:
            self._fresh = False
            self.look_again()
        if not self.groups:
            return make()
        key = (mode, call) if self._are_given_the_same else (mode,)
        if key in self._settled:
            known = self._settled[key]
            if known is not None:
                raise known.with_traceback(None)
            return self._alone(make)
        try:
            made = make()
        except ArgumentsError:  # of a call that the model does not take either
            raise
        except Exception as error:
            self._exchange(Ballot(dist.get_rank(), mode, failed=_line(error)))
            if isinstance(error, FxcacheError):
                self._keep(key, error)
            raise
        problem = self._problem(self._exchange(Ballot(dist.get_rank(), mode, told(made))))
        self._keep(key, problem)
        if problem is not None:
            raise problem
        return made

    def forgive(self) -> None:
        """Try again what failed. To be asked on all ranks alike."""
        self._settled = {key: error for key, error in self._settled.items() if error is None}

    def _alone(self, make: Callable[[], T]) -> T:
        try:
            return make()
        except ArgumentsError:
            raise
        except FxcacheError as error:
            raise AloneError(type(self._model).__name__, _line(error)) from error

    @property
    def _are_given_the_same(self) -> bool:
        """Whether all ranks see the same calls: they hold parts of one sample, split behind the call."""
        return all(group.agree == "parts" and not group.given for group in self.groups)

    def _exchange(self, ballot: Ballot) -> list[Ballot]:
        ballots = [ballot]
        for group in self.groups:
            gathered: list[Any] = [None] * group.size
            dist.all_gather_object(gathered, ballots, group=group.handle)
            ballots = [one for part in gathered for one in part]
        return ballots

    def _problem(self, ballots: list[Ballot]) -> PeersError | None:
        model = type(self._model).__name__
        failed = {f"rank {b.rank} cannot: {b.failed}": None for b in ballots if b.failed is not None}
        if failed:
            return PeersError(model, "; ".join(failed))
        # All compare with the same rank, so that all find a difference where there is one.
        unlike = [why for b in ballots[1:] if (why := b.unlike(ballots[0])) is not None]
        return PeersError(model, unlike[0]) if unlike else None

    def _keep(self, key: Key, problem: FxcacheError | None) -> None:
        if problem is not None:
            problem.__traceback__ = None  # it would keep the call's tensors
        self._settled[key] = problem
        while len(self._settled) > MAX_KINDS:
            del self._settled[next(iter(self._settled))]


def described(program: Program) -> dict[str, str]:
    """What of a program must be the same on all ranks, by name.

    Sizes need not be; nor settings that are state, where each rank has a sample of its own.
    """
    config = program.config
    alike = {name: getattr(config, name) for name in IN_GRAPH}
    facts: dict[str, object] = {
        "blocks": [b.name for b in program.chain],
        "segments": [(s.fn, s.bn) for s in program.segments],
        "state": [(t.name, t.dtype) for t in program.state],
    }
    if any(group.agree == "parts" for group in program.groups):
        facts["settings"] = f"{config} (digest {digest(config):.0f})"
    return {name: str(value) for name, value in {**alike, **facts}.items()}


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
