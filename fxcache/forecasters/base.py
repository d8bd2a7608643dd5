"""What every forecaster answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from ..errors import ConfigError
from ..spelling import require_known

Distance = Literal["step", "timestep"]
Calibrate = Literal["residual", "hidden_states"]

PAST = 4  # computed steps whose positions are remembered: orders up to PAST - 1


class Times(NamedTuple):
    """Where this step stands, as 0-dim float64 tensors in the forecaster's unit of distance.

    now: position of this step.
    past: positions of the last computed steps, most recent first; entries from `computed` on are junk.
    computed: how many steps of this trajectory were computed before this one.
    """

    now: Tensor
    past: tuple[Tensor, ...]
    computed: Tensor


@dataclass(frozen=True)
class Forecaster:
    """A method of extrapolating a cached value from its values at computed steps.

    order: highest order of difference used; memory is `order + 1` tensors for each cached value.
    calibrate: extrapolate the middle's residual (default) or its output itself.
    distance: measure steps by their number, or by the timestep's own value.
    """

    order: int = 1
    calibrate: Calibrate = "residual"
    distance: Distance = "step"

    def __new__(cls, *args: Any, **fields: Any) -> Forecaster:
        require_known(cls.__name__, fields, (f.name for f in dataclasses.fields(cls)))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if isinstance(self.order, bool) or not isinstance(self.order, int):
            raise ConfigError("forecaster", self, "its order must be a whole number")
        if not self.least_order() <= self.order < PAST:
            raise ConfigError("forecaster", self, f"its order must be {self.least_order()} to {PAST - 1}")
        if self.calibrate not in ("residual", "hidden_states"):
            raise ConfigError("forecaster", self, 'calibrate must be "residual" or "hidden_states"')
        if self.distance not in ("step", "timestep"):
            raise ConfigError("forecaster", self, 'distance must be "step" or "timestep"')

    @staticmethod
    def least_order() -> int:
        return 1

    @property
    def snapshots(self) -> int:
        """Tensors remembered for each cached value."""
        return self.order + 1

    def update(self, factors: Sequence[Tensor], value: Tensor, times: Times) -> tuple[Tensor, ...]:
        """What to remember after a computed step.

        Args:
            factors: what was remembered so far, `snapshots` tensors shaped like `value`.
            value: the value at this step.
            times: this step and the computed ones before it.
        """
        raise NotImplementedError

    def predict(self, factors: Sequence[Tensor], times: Times) -> Tensor:
        """The value expected at `times.now`; called only when at least one step was computed."""
        raise NotImplementedError
