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

    The scale contracts the polynomial far from the last computed step, where monomials run away.
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
