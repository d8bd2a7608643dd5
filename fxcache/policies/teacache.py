"""TeaCache: changes of the first block's modulated norm, rescaled by a polynomial and added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy
import torch
from torch import Tensor

from .base import Against, Decision, Policy, Progress, Seen, Signal
from .budget import spend
from .finite import finite_numbers

DEGREE = 4  # of the polynomial that is fitted


@dataclass(frozen=True)
class TeaCache(Policy):
    """The sum, since the last computed step, of `p(mean|m_t - m_(t-1)| / mean|m_(t-1)|)`.

    m is the first norm of the first block, modulated by the timestep: what its first projection is given. It
    needs no block. The last step, which TeaCache always computes, is one for `last_compute_steps`. Source:
    TeaCache (arXiv 2411.19108).

    coefficients: of the polynomial p, the highest power first, as in the makers' tables and `numpy.poly1d`;
        (1, 0) takes changes as they are. `fxcache.calibrate` finds those of a model.

    Raises:
        ConfigError: there is none, or one is not finite.

    Example:
        >>> import torch
        >>> from fxcache import TeaCache
        >>> policy = TeaCache(coefficients=(2, 1, 0.5))  # 2 x^2 + x + 0.5
        >>> numbers = torch.tensor(policy.numbers())
        >>> policy.decide(torch.tensor(0.5), torch.tensor([0.25]), numbers, None).number
        tensor(1.7500)
    """

    coefficients: Sequence[float] = (1.0, 0.0)

    signal: ClassVar[Signal] = "norm"
    against: ClassVar[Against] = "last"
    memory: ClassVar[tuple[float, ...]] = (0.0,)
    fitted_to: ClassVar[tuple[str, ...]] = ("signal", "change")
    in_state: ClassVar[tuple[str, ...]] = ("coefficients",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", finite_numbers(self, "coefficients"))

    def numbers(self) -> tuple[float, ...]:
        return tuple(self.coefficients)

    def fitted(self, seen: Seen) -> TeaCache:
        # Of the last step no change is known.
        pairs = [
            (x, y)
            for xs, ys in zip(seen.signal, seen.change, strict=True)
            for x, y in zip(xs, ys, strict=False)
        ]
        if not pairs:  # runs of two steps
            return self
        x, y = numpy.array(pairs).T
        return TeaCache(tuple(numpy.polyfit(x, y, min(DEGREE, len(pairs) - 1)).tolist()))

    def plain(self) -> TeaCache:
        return TeaCache((1.0, 0.0))

    def decide(self, change: Tensor | None, memory: Tensor, numbers: Tensor, progress: Progress) -> Decision:
        assert change is not None
        rescaled = torch.zeros_like(change)
        for coefficient in numbers.unbind(0):  # Horner's rule
            rescaled = rescaled * change + coefficient
        return spend(memory, rescaled)
