"""Which trajectory does a call continue? The rule that keeps runs apart with nothing wrapped.

A *trajectory* is one sampling run of one request: its calls share a state. Calls arrive one by one, and
several runs (or the two halves of guidance, called in turn) may be interleaved. Of its inputs, a call
has a sample, a time, and *conditioning*: all others. A call continues a trajectory when

1. it is the same kind of call (structure, constants, sizes) of the same graph;
2. its conditioning is that of the trajectory: the same objects, not written to since, or else equal
   values. An object that was given twice stands for the request: another one in its place, even an
   equal one, is another request; and when it is freed, the trajectory is over;
3. outside a named context, time moves on, in the direction it moved before. Where that leaves a doubt
   (several trajectories with one conditioning, or a leap in time), the sample decides: it must be near
   the trajectory's last one.

Anything else begins a new trajectory with a state of its own, which computes. An input that changes
from step to step although it is neither sample nor time (the residuals of a ControlNet) is recognised
when it changes twice in a row while other conditioning stays, time moves on and the sample is near; in
that trajectory it then no longer counts.

To read the time waits for the device. Within `cache_context(name)` it is not read: there the caller
vouches that calls with one conditioning are one request, and the graph itself notices when time turns
back. What only a name can tell apart: interleaved requests of the very same conditioning whose samples
are near each other at the same times.
"""

from __future__ import annotations

from collections.abc import Sequence

from .context import Context
from .moments import Moment
from .policies.nearness import NEAR
from .roles import Roles
from .signature import Call
from .trajectory import Trajectory
from .variants import Variant

MAX_TRAJECTORIES = 8  # of one context; beyond it, the one that waited longest is dropped
PATIENCE = 2  # a trajectory is over when it sat out so many rounds of all trajectories


class Trajectories:
    """The trajectories of one context.

    vouched: whether the caller named the context.
    """

    def __init__(self, vouched: bool) -> None:
        self.vouched = vouched
        self.uncached_steps = 0
        self._all: list[Trajectory] = []
        self.last: Trajectory | None = None

    def find(self, variant: Variant, call: Call, roles: Roles) -> Context:
        """The state for `call`, that of the trajectory that it continues or of a new one."""
        moment = Moment.of(call, roles)
        if len(self._all) == 1 and self._all[0].goes_on(variant, call, moment, read_time=not self.vouched):
            return self._all[0].context
        found = self._alike(variant, call)
        suspects: tuple[int, ...] = ()
        chosen, verdicts = self._continued(found, moment) if found else (None, {})
        if chosen is None:
            chosen, suspects = self._with_changing_inputs(variant, call, moment)
            if chosen is not None:
                chosen.stop_watching(suspects)
                verdicts = chosen.compare(call) or {}
        if chosen is None:
            chosen = self._begin(Trajectory.begin(variant, call, roles, moment, suspects))
        else:
            chosen.note(call, verdicts, moment, read_time=not self.vouched)
        self._pass_turn(chosen)
        return chosen.context

    def _alike(self, variant: Variant, call: Call) -> list[tuple[Trajectory, dict[int, int]]]:
        """Trajectories with this kind of call and this conditioning."""
        found: list[tuple[Trajectory, dict[int, int]]] = []
        for trajectory in self._all:
            if trajectory.is_kind(variant, call):
                verdicts = trajectory.compare(call)
                if verdicts is not None:
                    found.append((trajectory, verdicts))
        return found

    def _continued(
        self, found: Sequence[tuple[Trajectory, dict[int, int]]], moment: Moment
    ) -> tuple[Trajectory | None, dict[int, int]]:
        latest = min(found, key=lambda f: f[0].waited)
        if self.vouched or moment.times is None:
            return latest
        moving = [f for f in found if f[0].continues_at(moment)]
        if len(moving) == 1 and not moving[0][0].leaps_to(moment):
            return moving[0]
        if not moving:
            return None, {}
        distances = [moment.distance(f[0].moment) for f in moving]
        nearest = min(range(len(moving)), key=distances.__getitem__)
        return moving[nearest] if distances[nearest] < NEAR else (None, {})

    def _with_changing_inputs(
        self, variant: Variant, call: Call, moment: Moment
    ) -> tuple[Trajectory | None, tuple[int, ...]]:
        """A trajectory of which all tells that it goes on, but only some inputs changed, and those.

        The trajectory is given only where the same inputs changed at its last call, too.
        """
        suspects: tuple[int, ...] = ()
        for trajectory in sorted(self._all, key=lambda t: t.waited):
            changing = trajectory.changing(call) if trajectory.is_kind(variant, call) else ()
            if changing and trajectory.continues_at(moment) and trajectory.near(moment):
                if trajectory.suspects == changing:
                    return trajectory, changing
                suspects = suspects or changing
        return None, suspects

    def _begin(self, trajectory: Trajectory) -> Trajectory:
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
        return any(t.context.call_key for t in self._all)

    def current(self) -> Context:
        """State of the last call."""
        return self.last.context if self.last is not None else Context()

    def contexts(self) -> list[Context]:
        """States and records, that of the last call first."""
        return [t.context for t in sorted(self._all, key=lambda t: t.waited)]

    def finish(self) -> None:
        """End all trajectories; their records stay."""
        for trajectory in self._all:
            trajectory.end()
