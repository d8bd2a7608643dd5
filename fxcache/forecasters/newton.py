"""Newton's divided differences over the real, possibly uneven, distances between computed steps.

TaylorSeer's finite differences are exact for straight lines only; this form reproduces every
polynomial up to its order, at the same cost and memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Forecaster, Times


@dataclass(frozen=True)
class Newton(Forecaster):
    """The polynomial through the last `order + 1` computed values, read at this step.

    `Y ~ f[t0] + f[t0,t1] (t - t0) + f[t0,t1,t2] (t - t0)(t - t1) + ...`, Newton's interpolation formula, with
    the divided differences `f[...]` of the values at the last computed steps t0, t1, ..., the latest first.

    Raises:
        ConfigError: its order is not 1 to 3.

    Example:
        Of order 2 it reproduces a square, however uneven the steps.

        >>> import torch
        >>> from fxcache import Newton
        >>> from fxcache.forecasters import Times
        >>> newton = Newton(order=2)
        >>> factors, past = [torch.zeros(1)] * newton.snapshots, [0.0] * 4
        >>> for count, t in enumerate([0.0, 1.0, 3.0]):
        ...     times = Times(torch.tensor(t), tuple(map(torch.tensor, past)), torch.tensor(count))
        ...     factors, past = newton.update(factors, torch.tensor([t * t]), times), [t, *past[:3]]
        >>> when = Times(torch.tensor(4.0), tuple(map(torch.tensor, past)), torch.tensor(3))
        >>> newton.predict(factors, when)
        tensor([16.])
    """

    def update(self, factors: Sequence[Tensor], value: Tensor, times: Times) -> tuple[Tensor, ...]:
        ladder = [value]
        for i in range(self.order):
            distance = (times.now - times.past[i]).to(value.dtype)
            rung = (ladder[i] - factors[i]) / distance
            ladder.append(torch.where(times.computed > i, rung, torch.zeros_like(rung)))
        return tuple(ladder)

    def predict(self, factors: Sequence[Tensor], times: Times) -> Tensor:
        result = factors[0]
        weight = torch.ones_like(times.now)
        for i in range(1, self.order + 1):
            # Junk positions and missing rungs go together: the rung is zero where the position is junk.
            weight = weight * (times.now - times.past[i - 1])
            result = result + factors[i] * weight.to(result.dtype)
        return result
