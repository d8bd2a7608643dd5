"""HiCache (arXiv 2508.16984): TaylorSeer's ladder on scaled Hermite polynomials, not monomials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import ConfigError
from .base import Forecaster, Times
from .taylorseer import differences


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
        >>> hicache = HiCache(order=1, scale=0.5)
        >>> factors, past = [torch.zeros(1)] * hicache.snapshots, [0.0] * 4
        >>> for count, t in enumerate([0.0, 1.0]):
        ...     times = Times(torch.tensor(t), tuple(map(torch.tensor, past)), torch.tensor(count))
        ...     factors, past = hicache.update(factors, torch.tensor([4 * t]), times), [t, *past[:3]]
        >>> when = Times(torch.tensor(2.0), tuple(map(torch.tensor, past)), torch.tensor(2))
        >>> hicache.predict(factors, when)
        tensor([6.])
    """

    scale: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.scale <= 1:
            raise ConfigError("forecaster", self, "its scale must be above 0 and at most 1")

    def update(self, factors: Sequence[Tensor], value: Tensor, times: Times) -> tuple[Tensor, ...]:
        return differences(factors, value, times, self.order)

    def predict(self, factors: Sequence[Tensor], times: Times) -> Tensor:
        x = self.scale * (times.now - times.past[0])
        below, hermite = x * 0, x * 0 + 1  # H_-1, H_0
        result = factors[0]
        for i in range(1, self.order + 1):
            below, hermite = hermite, 2 * x * hermite - 2 * (i - 1) * below
            weight = self.scale**i * hermite / math.factorial(i)
            result = result + factors[i] * weight.to(result.dtype)
        return result
