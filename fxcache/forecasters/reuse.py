"""Reuse: replay the last computed value (order 0; DBCache and FBCache without TaylorSeer)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .base import Forecaster, Times


@dataclass(frozen=True)
class Reuse(Forecaster):
    """The last computed value, unchanged. What a hit replays where a config names no forecaster.

    Example:
        >>> import torch
        >>> from fxcache import Reuse
        >>> from fxcache.forecasters import Times
        >>> reuse, zero = Reuse(), torch.tensor(0.0)
        >>> reuse.snapshots, reuse.least_order()
        (1, 0)
        >>> factors = reuse.update((torch.zeros(1),), torch.tensor([5.0]), Times(zero, (zero,) * 4, zero))
        >>> reuse.predict(factors, Times(zero + 1, (zero,) * 4, zero + 1))
        tensor([5.])
    """

    order: int = 0

    @staticmethod
    def least_order() -> int:
        return 0

    def update(self, factors: Sequence[Tensor], value: Tensor, times: Times) -> tuple[Tensor, ...]:
        return (value,)

    def predict(self, factors: Sequence[Tensor], times: Times) -> Tensor:
        return factors[0]
