"""What every forecaster answers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from ..errors import ConfigError
from ..spelling import require_known

Distance = Literal["step", "timestep"]
Calibrate = Literal["residual", "hidden_states"]

PAST = 4  # computed steps whose positions are remembered: orders up to PAST - 1


class Times(NamedTuple):
    """Where this step stands, as 0-dim tensors; `fxcache.ops.clock.times` makes it, in float32, of a clock.

    Positions are in the forecaster's unit of distance: steps, or whatever the model's timestep counts.

    now: position of this step.
    past: positions of the last `PAST` (4) computed steps, most recent first; entries from `computed` on
        are junk.
    computed: how many steps of this trajectory were computed before this one.

    Example:
        Step 5; steps 0 and 3 were computed.

        >>> import torch
        >>> from fxcache.forecasters import Times
        >>> now, *past, computed = torch.tensor([5.0, 3, 0, 0, 0, 2])
        >>> times = Times(now, tuple(past), computed)
        >>> times.now - times.past[0]
        tensor(2.)
    """

    now: Tensor
    past: tuple[Tensor, ...]
    computed: Tensor


@dataclass(frozen=True)
class Forecaster:
    """A method of extrapolating a cached value from its values at computed steps.

    order: highest order of difference used; memory is `order + 1` values of each cached tensor.
    calibrate: extrapolate the middle's residual (default) or its output itself.
    distance: measure steps by their number, or by the timestep's own value.

    A new method is a frozen dataclass with `weights`: a pure function of positions, which is traced into the
    graph, so that no value may be read in Python.

    Raises:
        ConfigError: a field has a value that cannot work. UnknownOptionError: there is no such field.

    Example:
        >>> from fxcache import TaylorSeer
        >>> TaylorSeer(order=2).snapshots, TaylorSeer.least_order()
        (3, 1)
        >>> TaylorSeer(order=4)
        Traceback (most recent call last):
        fxcache.errors.ConfigError: CacheConfig.forecaster = TaylorSeer(...): its order must be 1 to 3
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
        """The lowest order that the method has."""
        return 1

    @property
    def snapshots(self) -> int:
        """How many of the last computed values are remembered."""
        return self.order + 1

    def weights(self, times: Times) -> Tensor:
        """What the value expected at `times.now` is made of: weights of its last computed values.

        Called only when at least one step was computed.

        Args:
            times: this step and the computed ones before it.

        Returns:
            [snapshots] of the dtype of `times`, that of the latest first. Values that are not there yet have
            weight 0.

        Example:
            >>> import torch
            >>> from fxcache.forecasters import TaylorSeer, Times
            >>> now, *past, computed = torch.tensor([5.0, 3, 1, 0, 0, 2])
            >>> TaylorSeer(order=1).weights(Times(now, tuple(past), computed))
            tensor([ 2., -1.])
        """
        raise NotImplementedError
