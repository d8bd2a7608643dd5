"""Differences of a value at computed steps, as weights of the values that they are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .base import Times

Distance = Callable[[int, int], Tensor]


def differences(times: Times, order: int, distance: Distance) -> list[Tensor]:
    """The weights of `d0 = value, d(i+1) = (d(i) - d(i) of the computed step before) / distance`.

    A difference for which too few steps were computed is 0.

    Args:
        times: the computed steps, the latest first.
        order: the highest difference.
        distance: 0-dim, what difference i of computed step m (0: the latest) is divided by, of (m, i).

    Returns:
        `order + 1` tensors [order + 1]: the weights of the latest value, the one before, and so on.

    Example:
        >>> import torch
        >>> from fxcache.forecasters import Times
        >>> from fxcache.forecasters.differences import differences
        >>> now, *past, computed = torch.tensor([5.0, 4, 2, 1, 0, 3])
        >>> times = Times(now, tuple(past), computed)
        >>> differences(times, 1, lambda m, i: times.past[m] - times.past[m + 1])[1]
        tensor([ 0.5000, -0.5000])
    """
    ladder = [unit for unit in torch.eye(order + 1, dtype=times.now.dtype, device=times.now.device)]
    found = [ladder[0]]
    for i in range(1, order + 1):
        ladder = [
            torch.where(times.computed > m + i, (ladder[m] - ladder[m + 1]) / distance(m, i), 0.0)
            for m in range(order + 1 - i)
        ]
        found.append(ladder[0])
    return found
