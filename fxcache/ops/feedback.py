"""Error feedback: a computed step after a gap pays back what the gap made wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from ..forecasters import Times
from .history import wide_sum


def error_degree(order: int, output: bool) -> int:
    """As which power of the distance an extrapolation's error is taken to grow over a gap.

    order: of the forecaster. output: whether the model's output is cached. Of these the first difference is
    off by a linear term (the last computed step's own error), of hidden residuals by a square one; order 2
    by a cubic one. Measured, not derived.

    Example:
        >>> from fxcache.ops.feedback import error_degree
        >>> error_degree(1, output=True), error_degree(1, output=False), error_degree(2, output=True)
        (1, 2, 3)
    """
    if order <= 1 and output:
        return 1
    return min(order, 2) + 1


def feedback_row(times: Times, run: Tensor, weights: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """What a computed step pays back for the hits before it: `own + G * (own - forecast)`.

    `G` is the sum over these hits t of `w(t) / w(now)`, where `w(t) = (t - a)`, `(t - a)(t - b)` or
    `(t - a)(t - b)(t - c)` is how the error of a forecast grows with the distance from the last computed
    steps a, b, c; the hits are taken to lie evenly between a and now, and a step of the sampler to be as long
    as the next.

    Args:
        times: where this step and the last computed ones stand.
        run: 0-dim, how many hits came right before this step.
        weights: [k] float32, those of the forecast of this step, the latest first.
        degree: 1 to 3, the number of factors of w.

    Returns:
        The weight of the step's own value, 0-dim: `1 + G`. [k], those of the last computed values.
        `1` and zeros where the step before was computed.

    Example:
        Steps 0 and 1 were computed, 2 and 3 were not.

        >>> import torch
        >>> from fxcache import TaylorSeer
        >>> from fxcache.forecasters import Times
        >>> from fxcache.ops.feedback import feedback_row
        >>> now, *past, computed = torch.tensor([4.0, 1, 0, 0, 0, 2])
        >>> times = Times(now, tuple(past), computed)
        >>> own, others = feedback_row(times, torch.tensor(2.0), TaylorSeer(order=1).weights(times), degree=1)
        >>> own, others
        (tensor(2.), tensor([-4.,  3.]))
    """
    gap = run + 1
    step = (times.now - times.past[0]) / gap  # of a hit
    # Positions before the first step are junk: the latest one stands in for them.
    known = [torch.where(times.computed > i, times.past[i], times.past[0]) for i in range(degree)]
    # w at the s-th hit is a polynomial in s: its coefficients, from the lowest on.
    polynomial = [torch.ones_like(gap)]
    at_now = torch.ones_like(gap)
    for position in known:
        offset = times.past[0] - position
        shifted = [torch.zeros_like(gap), *(c * step for c in polynomial)]
        kept = [*(c * offset for c in polynomial), torch.zeros_like(gap)]
        polynomial = [a + b for a, b in zip(shifted, kept, strict=True)]
        at_now = at_now * (times.now - position)
    sums = _power_sums(run)
    total = sum((c * sums[i] for i, c in enumerate(polynomial)), torch.zeros_like(gap))
    gain = torch.where(run > 0, total / at_now, 0.0)
    return 1 + gain, torch.where(run > 0, -gain * weights, 0.0)


def _power_sums(count: Tensor) -> tuple[Tensor, ...]:
    """The sums of s**0, s**1, s**2 and s**3 over s = 1 ... count."""
    first = count * (count + 1) / 2
    return count, first, count * (count + 1) * (2 * count + 1) / 6, first**2


def pay_back(value: Tensor, cached: Tensor, history: Tensor, weights: Tensor, own: Tensor) -> Tensor:
    """`value` with `own * cached + sum of weights * history` in the place of `cached`.

    Args:
        value: what the step computed, of a floating dtype.
        cached: what is remembered of it: its residual, or itself. Of the shape and dtype of `value`.
        history: [k, ...], what was remembered before this step.
        weights: [k], by slot.
        own: 0-dim.

    Returns:
        Like `value`; the very same numbers where `own` is 1 and all weights are 0.

    Example:
        >>> import torch
        >>> from fxcache.ops.feedback import pay_back
        >>> value, history = torch.tensor([3.0]), torch.tensor([[1.0], [2.0]])
        >>> pay_back(value, value, history, torch.tensor([0.0, -0.5]), torch.tensor(1.5))
        tensor([3.5000])
    """
    wide = torch.promote_types(value.dtype, torch.float32)
    own = own.to(device=value.device, dtype=wide)
    weights = weights.to(device=value.device, dtype=wide)
    change = (own - 1) * cached.to(wide) + wide_sum(history, weights)
    plain = (own == 1) & (weights == 0).all()
    return torch.where(plain, value, (value.to(wide) + change).to(value.dtype))
