"""Count the steps of a planned trajectory on the host, which need not wait for the device then.

The first two steps are read: they tell whether, and which, plan the trajectory follows. From then on the host
knows what each step does. It copies the timesteps out without waiting and looks at those that have arrived.
One that is not the plan's is warned of, and all steps after it compute. Until it is noticed, a hit where the
device expected none replays the latest value: a run that was broken off within a named context, and
followed by another with no `reset()` between, may so begin with a step that was replayed.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..errors import PlanWarning
from ..ir.keys import StateKey
from ..ops.clock import LIVE, STEP
from ..ops.plan import TOLERANCE
from ..plans import Plan

ASKED = 2  # steps of a trajectory of which the device is asked
# Kinds that copy to pinned memory beside the host and say when that is done.
WITHOUT_WAITING = ("cuda", "xpu")


@dataclass(eq=False)
class HostPlan:
    """What the host knows of one trajectory.

    step: how many steps were run. plan: the one that it follows; None where none, or not known yet.
    lost: whether it turned out to follow none.

    Example:
        >>> import torch
        >>> from fxcache import Plan
        >>> from fxcache.runtime.host_plan import HostPlan
        >>> plan = Plan(steps=3, computed=(0, 1), weights=((1, 0), (1, 0), (0, 1)))
        >>> clock = torch.zeros(4, 11)
        >>> clock[0, 2] = 2  # two steps were run, says the device
        >>> state, known = {"fits_0": torch.tensor([1.0, 0, 0, 0]), "clock_0": clock}, HostPlan()
        >>> [known.decision((plan,), state, None) for step in range(4)]
        [None, None, True, None]
    """

    step: int = 0
    plan: Plan | None = None
    lost: bool = False
    _arriving: list[_Arriving] = field(default_factory=list)

    def decision(
        self, plans: Sequence[Plan], state: Mapping[str, torch.Tensor], timestep: torch.Tensor | None
    ) -> bool | None:
        """Whether the step that comes is a hit; None where the device must be asked. Counts the step.

        plans: those that may be followed. state: of the trajectory. timestep: that of the step.
        """
        if self.plan is not None and self.step >= self.plan.steps:  # what comes is another run
            self.step, self.plan, self.lost, self._arriving = 0, None, False, []
        step, self.step = self.step, self.step + 1
        if step < ASKED:
            return None
        if step == ASKED:
            self.plan = _followed(plans, state, step)
        if self.plan is None:
            self.step = ASKED
            return None  # the device computes, and says so when a run begins that follows one
        self._look()
        if timestep is not None and self.plan.timesteps is not None and not self.lost:
            self._arriving.append(_Arriving.of(timestep, self.plan.timesteps[step]))
        return not self.lost and step not in self.plan.computed

    def _look(self) -> None:
        """Look at the timesteps that have arrived."""
        while self._arriving and self._arriving[0].is_here():
            found = self._arriving.pop(0)
            if not found.is_as_expected():
                self.lost, self._arriving = True, []
                what = f"a timestep is {found.value.item():g} where the plan has {found.expected:g}"
                warnings.warn(f"{what}: the steps after it are computed", PlanWarning, stacklevel=2)


@dataclass(eq=False)
class _Arriving:
    """A timestep on its way to the host."""

    value: torch.Tensor
    expected: float
    event: torch.Event | None

    @staticmethod
    def of(timestep: torch.Tensor, expected: float) -> _Arriving:
        mean = timestep.mean(dtype=torch.float32)
        if mean.device.type not in WITHOUT_WAITING:
            return _Arriving(mean.cpu(), expected, None)
        host = torch.empty((), dtype=torch.float32, pin_memory=True)
        host.copy_(mean, non_blocking=True)
        event = torch.Event(mean.device)
        # The stream of the copy: that of the timestep's device, which need not be the current one.
        event.record(torch.accelerator.current_stream(mean.device))
        return _Arriving(host, expected, event)

    def is_here(self) -> bool:
        return self.event is None or self.event.query()

    def is_as_expected(self) -> bool:
        return abs(self.value.item() - self.expected) <= TOLERANCE * abs(self.expected)


def _followed(plans: Sequence[Plan], state: Mapping[str, torch.Tensor], step: int) -> Plan | None:
    """The plan that the device follows, if it is at this step; waits for it."""
    clock, fits = state[StateKey("clock").name], state[StateKey("fits").name]
    at, *follows = torch.cat((clock[LIVE, STEP].reshape(1).to(fits.dtype), fits)).tolist()
    if at != step:
        return None
    return next((plan for plan, fit in zip(plans, follows, strict=False) if fit), None)
