"""Newton's divided differences over the real, possibly uneven, distances between computed steps.

TaylorSeer's finite differences are exact for straight lines only; this form reproduces every
polynomial up to its order, at the same cost and memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Forecaster, Times
from .differences import differences


@dataclass(frozen=True)
class Newton(Forecaster):
    """The polynomial through the last `order + 1` computed values, read at this step.

    `Y ~ f[t0] + f[t0,t1] (t - t0) + f[t0,t1,t2] (t - t0)(t - t1) + ...`, Newton's interpolation formula, with
    the divided differences `f[...]` of the values at the last computed steps t0, t1, ..., the latest first.

    Raises:
        ConfigError: its order is not 1 to 3.

    Example:
        The weights of a parabola through the last three values, however uneven the steps.

        >>> import torch
        >>> from fxcache import Newton
        >>> from fxcache.forecasters import Times
        >>> now, *past, computed = torch.tensor([4.0, 3, 1, 0, 0, 3])
        >>> Newton(order=2).weights(Times(now, tuple(past), computed))
        tensor([ 2., -2.,  1.])
    """

    def weights(self, times: Times) -> Tensor:
        terms = differences(times, self.order, lambda m, i: times.past[m] - times.past[m + i])
        result, power = terms[0], torch.ones_like(times.now)
        for i in range(1, self.order + 1):
            power = power * (times.now - times.past[i - 1])
            # Positions before the first step are junk; so many steps back the difference is 0.
            result = result + terms[i] * power
        return result
