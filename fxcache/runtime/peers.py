"""The other processes: a call must be the same on all ranks, or they wait for each other for ever.

What a step does is agreed on in the graph. That a call can be served at all, how, and by what graph, the
ranks tell one another here, on the host and at every call: whatever happens to one of them alone (its model
changed, and cannot be captured again) is known to all before any of them waits in the graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from ..capture.rank_groups import parallelism, rank_groups, several_processes
from ..errors import ArgumentsError, FxcacheError, PeerFailedError, PeersError, TooManyContextsError
from ..ir.ranks import Agree, RankGroup
from .host_group import host_group

T = TypeVar("T")
CACHED, UNCACHED, GRADIENT = "runs cached", "runs uncached", "runs with gradients"
Facts = Mapping[str, str]


@dataclass(frozen=True)
class Ballot:
    """What a rank makes of a call.

    mode: what it does, in words. facts: what of that must be the same, by name. failed: why it does nothing.
    rejected: whether that is because the model itself does not take the call. stops: whether it does not run
    the model uncached either. passes: whether it would where nothing but the cache is in the way.
    """

    rank: int
    mode: str
    facts: Facts = field(default_factory=dict)
    failed: str | None = None
    rejected: bool = False
    stops: bool = False
    passes: bool = False

    def unlike(self, other: Ballot) -> str | None:
        """In what it differs from another, in words."""
        if self.mode != other.mode:
            return f"rank {self.rank} {self.mode}, rank {other.rank} {other.mode}"
        for name, value in self.facts.items():
            if other.facts.get(name) != value:
                return f"rank {self.rank} has the {name} {value}, rank {other.rank} {other.facts.get(name)}"
        return None

    def digest(self) -> int:
        """A number that tells it from others, whosever it is; positive, and of 63 bits."""
        text = repr((self.mode, sorted(self.facts.items()))).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


class Peers:
    """The ranks that decide with this one, for one cached model."""

    def __init__(self, model: nn.Module, given: Any, agree: Agree, passes: bool = False) -> None:
        """Raises `ConfigError` where `given` is no group."""
        self._model, self._given, self._agree, self._passes = model, given, agree, passes
        self._fresh = True  # whether no call was made; parallelism may come after `transform`
        self._hosts: dict[str, tuple[Any, Any]] = {}
        self.groups: tuple[RankGroup, ...] = ()
        self.look_again()

    def look_again(self) -> tuple[RankGroup, ...]:
        """The groups, by another look at how the model is parallelized."""
        self._seen = parallelism(self._model)
        self.groups = rank_groups(self._model, self._given, self._agree)
        return self.groups

    def changed(self) -> bool:
        """Whether the model was parallelized otherwise since the last look; looks again then."""
        if self._seen == parallelism(self._model):
            return False
        self.look_again()
        return True

    @property
    def unknown(self) -> bool:
        """Whether there are other processes, and neither model nor user says which decide together."""
        return not self.groups and self._given is not None and several_processes()

    def turn(self) -> Turn:
        """For a call, which all ranks make alike."""
        if self._fresh:
            self._fresh = False
            self.look_again()
        return Turn(self)

    def problem(
        self, mode: str, facts: Facts, error: Exception | None = None, stops: bool = False
    ) -> FxcacheError | None:
        """What keeps the ranks from doing the same, found out together; waits for them.

        error: why this rank does nothing. stops: whether it will not pass through.
        """
        ballot = Ballot(dist.get_rank(), mode, facts, passes=self._passes)
        if error is not None:
            ballot = replace(
                ballot,
                failed=_line(error),
                rejected=isinstance(error, ArgumentsError),
                stops=stops,
            )
        if self._agreed(ballot):
            return None
        ballots = self._exchange(ballot)
        if all(b.rejected for b in ballots):
            return None
        return _difference(type(self._model).__name__, ballots)

    def _agreed(self, ballot: Ballot) -> bool:
        """Whether no rank failed and all tell the same: the largest digest is the smallest."""
        number, failed = ballot.digest(), ballot.failed is not None
        largest = torch.tensor([number, -number, failed], dtype=torch.int64)
        for group in self.groups:
            dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._host(group))
        high, low, any_failed = largest.tolist()
        return bool(high == -low and not any_failed)

    def _exchange(self, ballot: Ballot) -> list[Ballot]:
        ballots = [ballot]
        for group in self.groups:
            gathered: list[Any] = [None] * group.size
            dist.all_gather_object(gathered, ballots, group=self._host(group))
            ballots = [one for part in gathered for one in part]
        return ballots

    def _host(self, group: RankGroup) -> Any:
        handle, host = self._hosts.get(group.name, (None, None))
        if handle is not group.handle:
            host = host_group(group)
            self._hosts[group.name] = group.handle, host
        return host


class Turn:
    """A call: once in it the ranks tell one another what they make of it.

    A context: what is raised within before they did is told to the others in place of that.
    """

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._over = not peers.groups

    def settle(self, make: Callable[[], T], told: Callable[[T], tuple[str, Facts]]) -> T:
        """What `make()` gives, once the other ranks have told that theirs gives the same.

        told: of the outcome, what the rank does then, and what of it must be the same.

        Raises:
            PeersError: another rank cannot, or does something else. PeerFailedError: another rank goes no
            further. And what `make` raises; the other ranks raise one of these, then.
        """
        try:
            made = make()
        except Exception as error:
            self.tell(error)
            raise
        if not self._over:
            self._over = True
            problem = self._peers.problem(*told(made))
            if problem is not None:
                raise problem
        return made

    def tell(self, error: Exception, stops: bool = False) -> None:
        """Let the others know that this rank cannot, unless they have told one another already.

        stops: whether it will not run the model uncached, either.

        Raises what is to be raised in place of the error: `PeerFailedError`, as another one goes no further;
        `PeersError`, as only this rank's model does not take the call.
        """
        if self._over:
            return
        self._over = True
        stops = stops or not isinstance(error, FxcacheError) or isinstance(error, TooManyContextsError)
        problem = self._peers.problem(CACHED, {}, error, stops)
        if problem is None or stops:
            return
        if isinstance(error, ArgumentsError) or isinstance(problem, PeerFailedError):
            raise problem from error

    def __enter__(self) -> Turn:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            self.tell(error, stops=True)


def _difference(model: str, ballots: list[Ballot]) -> FxcacheError | None:
    """Why ranks do not do the same; the same on all of them."""
    failed = [b for b in ballots if b.failed is not None]
    reasons = "; ".join(dict.fromkeys(f"rank {b.rank} cannot: {b.failed}" for b in failed))
    if any(b.stops for b in failed):
        return PeerFailedError(model, reasons)
    if failed and len({b.passes for b in ballots}) > 1:
        raises = next(b.rank for b in ballots if not b.passes)
        return PeerFailedError(model, f"{reasons}; and rank {raises} is not to pass through")
    if failed:
        return PeersError(model, reasons)
    # All compare with the same rank, so that all find a difference where there is one.
    unlike = [why for b in ballots[1:] if (why := b.unlike(ballots[0])) is not None]
    return PeersError(model, unlike[0]) if unlike else None


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:500].rstrip(".")
