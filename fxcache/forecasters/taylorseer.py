"""TaylorSeer (arXiv 2503.06923): a Taylor polynomial whose derivatives are finite differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Forecaster, Times


def differences(factors: Sequence[Tensor], value: Tensor, times: Times, order: int) -> tuple[Tensor, ...]:
    """The ladder `d0 = value, d(i+1) = (d(i) - d(i) of the last computed step) / distance`.

    Rung i+1 exists only if the last ladder had rung i; a missing rung is zero.
    """
    ladder = [value]
    distance = (times.now - times.past[0]).to(value.dtype)
    for i in range(order):
        rung = (ladder[i] - factors[i]) / distance
        ladder.append(torch.where(times.computed > i, rung, torch.zeros_like(rung)))
    return tuple(ladder)


@dataclass(frozen=True)
class TaylorSeer(Forecaster):
    """Taylor extrapolation from finite differences at computed steps: `Y ~ sum d(i) e^i / i!`."""

    def update(self, factors: Sequence[Tensor], value: Tensor, times: Times) -> tuple[Tensor, ...]:
        return differences(factors, value, times, self.order)

    def predict(self, factors: Sequence[Tensor], times: Times) -> Tensor:
        elapsed = times.now - times.past[0]
        result = factors[0]
        for i in range(1, self.order + 1):
            weight = (elapsed**i / math.factorial(i)).to(result.dtype)
            result = result + factors[i] * weight
        return result
