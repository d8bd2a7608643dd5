"""TaylorSeer (arXiv 2503.06923): a Taylor polynomial whose derivatives are finite differences."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from .base import Forecaster, Times
from .differences import differences


def finite_differences(times: Times, order: int) -> list[Tensor]:
    """`differences` divided by the distance between one computed step and the one before it.

    Returns:
        `order + 1` tensors [order + 1].

    Example:
        >>> import torch
        >>> from fxcache.forecasters import Times
        >>> from fxcache.forecasters.taylorseer import finite_differences
        >>> now, *past, computed = torch.tensor([3.0, 2, 1, 0, 0, 3])
        >>> finite_differences(Times(now, tuple(past), computed), order=2)[2]
        tensor([ 1., -2.,  1.])
    """
    return differences(times, order, lambda m, _: times.past[m] - times.past[m + 1])


@dataclass(frozen=True)
class TaylorSeer(Forecaster):
    """Taylor extrapolation from finite differences at computed steps: `Y ~ sum d(i) e^i / i!`.

    d(i) are `finite_differences`, e the distance since the last computed step. Source: TaylorSeer, arXiv
    2503.06923, its Taylor expansion with derivatives approximated by finite differences. Exact for values
    that change along a line; `Newton` is exact for polynomials up to its order.

    Raises:
        ConfigError: its order is not 1 to 3.

    Example:
        The value three steps on is what it was, and as much again as it changed in three steps.

        >>> import torch
        >>> from fxcache import TaylorSeer
        >>> from fxcache.forecasters import Times
        >>> now, *past, computed = torch.tensor([6.0, 3, 2, 1, 0, 4])
        >>> TaylorSeer(order=1).weights(Times(now, tuple(past), computed))
        tensor([ 4., -3.])
    """

    def weights(self, times: Times) -> Tensor:
        elapsed = times.now - times.past[0]
        terms = finite_differences(times, self.order)
        result = terms[0]
        for i in range(1, self.order + 1):
            result = result + terms[i] * (elapsed**i / math.factorial(i))
        return result
