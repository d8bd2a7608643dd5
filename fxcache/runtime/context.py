"""Which trajectory does a call continue? The rule that keeps runs apart with nothing wrapped.

A *trajectory* is one sampling run of one request: its calls share a state. Calls arrive one by one, and
several runs (or the two halves of guidance, called in turn) may be interleaved. Of its inputs, a call
has a sample, a time, and *conditioning*: all others. A call continues a trajectory when

1. it is the same kind of call (structure, constants, sizes) of the same graph, or of one that remembers the
   same of the same blocks (a forward that decides by the time has a graph for each outcome), and the
   settings of the cache are those with which it began;
2. its conditioning is that of the trajectory: the same objects, not written to since, or else equal
   values. An object that was given twice stands for the request: another one in its place, even an
   equal one, is another request; and when it is freed, the trajectory is over;
3. outside a named context, time moves on, in the direction it moved before. Where that leaves a doubt
   (several trajectories with one conditioning, or a leap in time), the sample decides: it must be near
   the trajectory's last one.

Of several that could claim a call, the one of which the most tells: with the most inputs that are
compared, then the most that are the very same objects, then the nearest sample.

Anything else begins a new trajectory with a state of its own, which computes. An input that changes
from step to step although it is neither sample nor time (the residuals of a ControlNet) is recognized
when it changes twice in a row while other conditioning stays, time moves on and the sample is near; in
that trajectory it then no longer counts. The halves of guidance have such inputs, too, and differ in
more: a call is compared with the trajectory from which the fewest inputs differ. Where two could claim
it alike, neither does.

To read the time waits for the device. Within `cache_context(name)` it is not read: there the caller
vouches that calls with one conditioning are one request, and the graph itself notices when time turns
back or the sample leaps. What only a name can tell apart: interleaved requests of the very same
conditioning, but for inputs that change at each step, whose samples are near each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..capture.call_signature import Call
from ..config import CacheConfig
from ..ops.nearness import NEAR
from .conditioning import IDENTICAL
from .request_identity import Moment
from .sampling import Sampling
from .served_graph import Served
from .trajectory import Change, Trajectory
from .trajectory_state import TrajectoryState

MAX_TRAJECTORIES = 8  # of one context; beyond it, the one that waited longest is dropped
PATIENCE = 2  # rounds of all trajectories that one may sit out before it is over


class Context:
    """The trajectories of one context.

    vouched: whether the caller named the context.
    ended: runs that are over and were not looked at; but those of plans, of which the host must not wait to
        know. alone: calls in a row that each began a run.
    """

    def __init__(self, vouched: bool) -> None:
        self.vouched = vouched
        self.uncached_steps = 0
        self._all: list[Trajectory] = []
        self.last: Trajectory | None = None
        self.ended: list[TrajectoryState] = []
        self.alone = 0
        self._first = 0  # the step of the sampler at which its run began, and the last one
        self._index: int | None = None

    def find(self, graph: Served, call: Call, config: CacheConfig) -> TrajectoryState:
        """The state for `call`, that of the trajectory that it continues or of a new one."""
        moment = Moment.of(call, graph.roles)
        if len(self._all) == 1:
            only = self._all[0]
            if only.continues(graph, call, config, moment, read_time=not self.vouched):
                only.graph, self.alone = graph, 0
                return only.state
        chosen, verdicts = self._continued(self._alike(graph, call, config), moment)
        change = None
        if chosen is None:
            chosen, change = self._with_changing_inputs(graph, call, config, moment)
            if chosen is not None and change is not None:
                self._settle(chosen, change)
                verdicts = chosen.compare(call) or {}
        if chosen is None:
            chosen = self._begin(Trajectory.begin(graph, call, config, moment, change))
            self.alone += 1
        else:
            self.alone = 0
            chosen.note(call, verdicts, moment, read_time=not self.vouched)
            chosen.graph = graph
        self._pass_turn(chosen)
        return chosen.state

    def first_step(self, sampling: Sampling) -> int:
        """At which step of its run this context was first called; a step before the last one begins a run."""
        if sampling.index is None:
            return 0
        if self._index is None or sampling.index < self._index:
            self._first = sampling.index
        self._index = sampling.index
        return self._first

    def _alike(
        self, graph: Served, call: Call, config: CacheConfig
    ) -> list[tuple[Trajectory, dict[int, int]]]:
        """Context with this kind of call and this conditioning."""
        found: list[tuple[Trajectory, dict[int, int]]] = []
        for trajectory in self._all:
            if trajectory.is_kind(graph, call, config):
                verdicts = trajectory.compare(call)
                if verdicts is not None:
                    found.append((trajectory, verdicts))
        return found

    def _continued(
        self, found: Sequence[tuple[Trajectory, dict[int, int]]], moment: Moment
    ) -> tuple[Trajectory | None, dict[int, int]]:
        """Of trajectories with the call's conditioning the one that it continues."""
        if found and self.vouched:
            return min(found, key=lambda f: (*_looseness(f), f[0].waited))
        moving = found if moment.times is None else [f for f in found if f[0].continues_at(moment)]
        if len(moving) == 1 and not moving[0][0].leaps_to(moment):
            return moving[0]
        ranked = [((*_looseness(f), moment.distance(f[0].moment)), f) for f in moving]
        ranked = [r for r in ranked if r[0][-1] < NEAR]
        if not ranked:
            return None, {}
        best = min(key for key, _ in ranked)
        level = sorted((f for key, f in ranked if key == best), key=lambda f: f[0].waited)
        fresh = sum(t.waited < len(self._all) for t, _ in level)  # not passed over for a whole round
        if fresh > 1 and level[0][0].unwatched:
            return None, {}  # they may differ in what is not watched, and only in that
        return level[0]

    def _with_changing_inputs(
        self, graph: Served, call: Call, config: CacheConfig, moment: Moment
    ) -> tuple[Trajectory | None, Change | None]:
        """A trajectory of which all tells that it goes on, but some inputs changed; and that change.

        Of several, the one from which the fewest inputs differ; then the one with the most of the very
        same objects; then the one whose sample is nearest. It is given only where the same inputs changed
        at its last call, too, and no other trajectory could claim the call as well.
        """
        alike = [t for t in self._all if t.is_kind(graph, call, config)]
        changes = [c for t in alike if (c := t.changed(call)) is not None]
        ranked = [
            (len(c.inputs), -c.identical, moment.distance(c.trajectory.moment), c)
            for c in changes
            if c.trajectory.continues_at(moment)
        ]
        ranked = [r for r in ranked if r[2] < NEAR]
        if not ranked:
            return None, None
        least = min(r[:3] for r in ranked)
        closest = sorted((r[3] for r in ranked if r[:3] == least), key=lambda c: c.trajectory.waited)
        again = [c for c in closest if c.trajectory.repeats(c)]
        if again and not any(again[0].trajectory.is_apart(c.trajectory) for c in again[1:]):
            return again[0].trajectory, again[0]
        return None, closest[0]

    def _settle(self, chosen: Trajectory, change: Change) -> None:
        """`chosen` goes on although some inputs change; so it was begun only because they did."""
        for trajectory in [t for t in self._all if chosen.comes_after(t)]:
            trajectory.end()
            self._all.remove(trajectory)
        chosen.stop_watching(change.inputs)

    def _begin(self, trajectory: Trajectory) -> Trajectory:
        self.ended += [t.state for t in self._all if t.over and not t.config.plans]
        self._all = [t for t in self._all if not t.over]
        if len(self._all) >= MAX_TRAJECTORIES:
            self._all.remove(max(self._all, key=lambda t: t.waited))
        self._all.append(trajectory)
        return trajectory

    def _pass_turn(self, chosen: Trajectory) -> None:
        chosen.waited, self.last = 0, chosen
        if len(self._all) == 1:
            return
        for trajectory in self._all:
            if trajectory is not chosen:
                trajectory.waited += 1
        limit = PATIENCE * len(self._all)
        self._all = [t for t in self._all if t.waited < limit]

    @property
    def live(self) -> bool:
        """Whether state is held."""
        return any(t.state.call_key for t in self._all)

    def last_state(self) -> TrajectoryState:
        """State of the last call."""
        return self.last.state if self.last is not None else TrajectoryState()

    def states(self) -> list[TrajectoryState]:
        """States and records, that of the last call first."""
        return [t.state for t in sorted(self._all, key=lambda t: t.waited)]

    def finish(self) -> None:
        """End all trajectories; their records stay."""
        for trajectory in self._all:
            trajectory.end()


def _looseness(found: tuple[Trajectory, dict[int, int]]) -> tuple[int, int]:
    """Smaller where more tells that a call is this trajectory's: all inputs watched, the same objects."""
    trajectory, verdicts = found
    return trajectory.unwatched, -sum(v == IDENTICAL for v in verdicts.values())
