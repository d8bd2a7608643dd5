"""HiCache (arXiv 2508.16984): TaylorSeer's ladder on scaled Hermite polynomials, not monomials."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..errors import ConfigError
from .base import Forecaster, Times
from .taylorseer import finite_differences


@dataclass(frozen=True)
class HiCache(Forecaster):
    """`Y ~ d0 + sum d(i) s^i H_i(s e) / i!` with physicists' Hermite polynomials H and a scale s.

    d(i) are the differences of TaylorSeer, e the distance since the last computed step. The scale contracts
    the polynomial far from that step, where monomials run away. Source: HiCache, arXiv 2508.16984.

    scale: s, above 0 and at most 1.

    Raises:
        ConfigError: its order is not 1 to 3, or its scale is out of range.

    Example:
        Of order 1 it goes on along a line as steep as `2 s^2` times the last difference.

        >>> import torch
        >>> from fxcache import HiCache
        >>> from fxcache.forecasters import Times
        >>> now, *past, computed = torch.tensor([2.0, 1, 0, 0, 0, 2])
        >>> HiCache(order=1, scale=0.5).weights(Times(now, tuple(past), computed))
        tensor([ 1.5000, -0.5000])
    """

    scale: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale <= 1:
            raise ConfigError("forecaster", self, "its scale must be above 0 and at most 1")

    def weights(self, times: Times) -> Tensor:
        x = self.scale * (times.now - times.past[0])
        below, hermite = x * 0, x * 0 + 1  # H_-1, H_0
        terms = finite_differences(times, self.order)
        result = terms[0]
        for i in range(1, self.order + 1):
            below, hermite = hermite, 2 * x * hermite - 2 * (i - 1) * below
            result = result + terms[i] * (self.scale**i * hermite / math.factorial(i))
        return result
