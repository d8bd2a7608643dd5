"""Reuse: replay the last computed value (order 0; DBCache and FBCache without TaylorSeer)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .base import Forecaster, Times


@dataclass(frozen=True)
class Reuse(Forecaster):
    """The last computed value, unchanged."""

    order: int = 0

    @staticmethod
    def least_order() -> int:
        return 0

    def update(self, factors: Sequence[Tensor], value: Tensor, times: Times) -> tuple[Tensor, ...]:
        return (value,)

    def predict(self, factors: Sequence[Tensor], times: Times) -> Tensor:
        return factors[0]
