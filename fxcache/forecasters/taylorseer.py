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

    Args:
        factors: the ladder of the last computed step: `order + 1` tensors like `value`.
        value: the value at this step, of any shape, of a floating dtype.
        times: this step and the computed ones before it; the distance is `times.now - times.past[0]`.
        order: highest difference.

    Returns:
        The ladder of this step: `order + 1` tensors like `value`.

    Example:
        >>> import torch
        >>> from fxcache.forecasters.base import Times
        >>> from fxcache.forecasters.taylorseer import differences
        >>> times = Times(torch.tensor(2.0), (torch.tensor(0.0),) * 4, computed=torch.tensor(1.0))
        >>> differences((torch.tensor([1.0]), torch.tensor([0.0])), torch.tensor([5.0]), times, order=1)
        (tensor([5.]), tensor([2.]))
    """
    ladder = [value]
    distance = (times.now - times.past[0]).to(value.dtype)
    for i in range(order):
        rung = (ladder[i] - factors[i]) / distance
        ladder.append(torch.where(times.computed > i, rung, torch.zeros_like(rung)))
    return tuple(ladder)


@dataclass(frozen=True)
class TaylorSeer(Forecaster):
    """Taylor extrapolation from finite differences at computed steps: `Y ~ sum d(i) e^i / i!`.

    d(i) are `differences`, e the distance since the last computed step. Source: TaylorSeer, arXiv 2503.06923,
    its Taylor expansion with derivatives approximated by finite differences. Exact for values that change
    along a line; `Newton` is exact for polynomials up to its order.

    Raises:
        ConfigError: its order is not 1 to 3.

    Example:
        >>> import torch
        >>> from fxcache import TaylorSeer
        >>> from fxcache.forecasters import Times
        >>> taylor = TaylorSeer(order=1)
        >>> factors, past = [torch.zeros(1)] * taylor.snapshots, [0.0] * 4
        >>> for count, t in enumerate([0.0, 2.0]):
        ...     times = Times(torch.tensor(t), tuple(map(torch.tensor, past)), torch.tensor(count))
        ...     factors, past = taylor.update(factors, torch.tensor([1 + 3 * t]), times), [t, *past[:3]]
        >>> when = Times(torch.tensor(5.0), tuple(map(torch.tensor, past)), torch.tensor(2))
        >>> taylor.predict(factors, when)
        tensor([16.])
    """

    def update(self, factors: Sequence[Tensor], value: Tensor, times: Times) -> tuple[Tensor, ...]:
        return differences(factors, value, times, self.order)

    def predict(self, factors: Sequence[Tensor], times: Times) -> Tensor:
        elapsed = times.now - times.past[0]
        result = factors[0]
        for i in range(1, self.order + 1):
            weight = (elapsed**i / math.factorial(i)).to(result.dtype)
            result = result + factors[i] * weight
        return result
