"""`Trajectory`: one sampling run of one request, its state, and by what its next call is known."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field

from ..capture.call_signature import Call
from ..config import CacheConfig
from ..ops.nearness import NEAR
from .conditioning import DIFFERENT, EQUAL, IDENTICAL, Kept, compared
from .request_identity import Moment
from .served_graph import Served
from .trajectory_state import TrajectoryState

LEAP = 2.5  # how many times the move before a move in time may be without doubt
FIRST_LEAP = 0.3  # a first move is doubtful when it is this share of the time


@dataclass(eq=False)
class Trajectory:
    """One run.

    config: the settings with which it began.
    suspects: inputs in which its first call differs from the trajectory that it may be a continuation of;
        after: that trajectory's last moment.
    unwatched: how many inputs change from step to step, so that they tell nothing.
    move: by how much time last moved; its sign is the direction.
    waited: calls of others since the last of this one.
    """

    graph: Served
    call_key: tuple[object, ...]
    config: CacheConfig
    kept: dict[int, Kept]
    moment: Moment
    suspects: tuple[int, ...] = ()
    after: weakref.ref[Moment] | None = None
    state: TrajectoryState = field(default_factory=TrajectoryState)
    unwatched: int = 0
    move: float = 0.0
    waited: int = 0
    over: bool = False

    @staticmethod
    def begin(
        graph: Served, call: Call, config: CacheConfig, moment: Moment, change: Change | None
    ) -> Trajectory:
        kept = {i: Kept(call.tensors[i]) for i in graph.roles.conditioning}
        begun = Trajectory(graph, call.key, config, kept, moment)
        if change is not None:
            last = change.trajectory.moment
            begun.suspects, begun.after = change.inputs, weakref.ref(last)
            now, then = moment.time(), last.time()
            if now is not None and then is not None:
                begun.move = min(now - then, 0.0)  # that it rises is too rare to be taken for granted
        return begun

    def is_kind(self, graph: Served, call: Call, config: CacheConfig) -> bool:
        """Whether `call` is the same kind of call of the same graph, or of one that shares its state.

        With other settings it is another run.
        """
        if self.over or self.call_key != call.key or not self.graph.shares_state(graph, call.key):
            return False
        return self.config is config or self.config == config

    def continues(
        self, graph: Served, call: Call, config: CacheConfig, moment: Moment, read_time: bool
    ) -> bool:
        """Quickly, whether nothing but the sample changed and time moved on by a step; notes it if so.

        False means only that this must be looked at more closely.
        """
        if not (self.is_kind(graph, call, config) and self.waited == 0):
            return False
        if not all(kept.proven for kept in self.kept.values()):
            return False
        if any(v != IDENTICAL for v in compared(self.kept, call.tensors, until=IDENTICAL).values()):
            return False
        if read_time:
            now, last = moment.time(), self.moment.time()
            if now is None or last is None:
                return False
            move = now - last
            if not (move * self.move > 0 and abs(move) <= LEAP * abs(self.move)):
                return False
            self.move = move
        self.moment = moment
        return True

    def compare(self, call: Call) -> dict[int, int] | None:
        """How each conditioning input compares; None where one differs."""
        verdicts = compared(self.kept, call.tensors, until=EQUAL)
        return None if DIFFERENT in verdicts.values() else verdicts

    def continues_at(self, moment: Moment) -> bool:
        """Whether time moves on from this trajectory's last call, the way it moved before."""
        now, last = moment.time(), self.moment.time()
        if now is None or last is None:
            return False
        return now != last and (now - last) * self.move >= 0

    def leaps_to(self, moment: Moment) -> bool:
        """Whether time moves on so far that this may be a run that was begun elsewhere.

        Without a time, whether the sample does.
        """
        now, last = moment.time(), self.moment.time()
        if now is None or last is None:
            return NEAR <= moment.distance(self.moment) < math.inf
        return abs(now - last) > (LEAP * abs(self.move) if self.move else FIRST_LEAP * abs(last))

    def changed(self, call: Call) -> Change | None:
        """How the conditioning of `call` differs; None unless only some does, and none that was proven."""
        kept = self.kept  # ends, and is another, when one of its tensors is freed
        verdicts = compared(kept, call.tensors, until=DIFFERENT)
        inputs = tuple(i for i, verdict in verdicts.items() if verdict == DIFFERENT)
        proven = any(kept[i].proven for i in inputs)
        if proven or not inputs or len(inputs) == len(verdicts):
            return None
        return Change(self, inputs, sum(v == IDENTICAL for v in verdicts.values()))

    def repeats(self, change: Change) -> bool:
        """Whether the inputs that change now are those that changed when it began."""
        return bool(self.suspects) and self.suspects == change.inputs

    def is_apart(self, other: Trajectory) -> bool:
        """Whether another was last given something else in the inputs that are suspected of both."""
        if self.suspects != other.suspects:
            return True
        mine, its = self.kept, other.kept
        return any(i not in mine or i not in its or mine[i].is_apart(its[i]) for i in self.suspects)

    def comes_after(self, other: Trajectory) -> bool:
        """Whether it may be a continuation of `other`, which was not called since."""
        return self.after is not None and self.after() is other.moment

    def stop_watching(self, inputs: tuple[int, ...]) -> None:
        """These inputs change from step to step: they tell nothing."""
        self.suspects = ()
        self.unwatched += len(inputs)
        for i in inputs:
            del self.kept[i]

    def note(self, call: Call, verdicts: dict[int, int], moment: Moment, read_time: bool) -> None:
        """`call` continues this trajectory; its conditioning compared as `verdicts`."""
        for i, verdict in verdicts.items():
            self.kept[i].note(call.tensors[i], verdict, self._ending)
        if read_time:
            now, last = moment.time(), self.moment.time()
            if now is not None and last is not None:
                self.move = now - last
        self.moment = moment

    def end(self) -> None:
        """Free the state; the record stays for `stats()`."""
        self.over = True
        self.kept = {}
        self.moment = Moment(None, None, (None, None))
        self.state.finish()

    def _ending(self) -> Callable[[object], None]:
        mine = weakref.ref(self)

        def gone(_: object) -> None:
            trajectory = mine()
            if trajectory is not None:
                trajectory.end()

        return gone


@dataclass(frozen=True, eq=False)
class Change:
    """How a call differs from the last one of a trajectory that it may continue.

    inputs: those that differ. identical: how many others are the very same objects.
    """

    trajectory: Trajectory
    inputs: tuple[int, ...]
    identical: int
