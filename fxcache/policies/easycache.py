"""EasyCache: how much the output must have moved, from how much the input did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..ops.residual_diff import mean_size
from .base import Against, Decision, Policy, Progress, Signal


@dataclass(frozen=True)
class EasyCache(Policy):
    """The sum, since the last computed step, of `k * mean|x_t - x_(t-1)| / mean|v_c|`.

    x is the model's first input and v its first output; `k = mean|v_c - v_b| / mean|x_c - x_b|` of the last
    two computed steps b and c. It needs no block, and no table. Needs level="output". Source: EasyCache
    (arXiv 2507.02860), whose equation 6 has k. It computes the first steps, which are the warmup here, and
    the last one, for which there is `last_compute_steps`; it replays `v_c - x_c`, in place of which the
    forecaster's value stands here.

    Example:
        >>> import torch
        >>> from fxcache import EasyCache
        >>> spent, gain, size = 0.25, 2.0, 4.0
        >>> memory = torch.tensor([spent, gain, size])
        >>> EasyCache().decide(torch.tensor(1.0), memory, torch.zeros(0), None).number
        tensor(0.7500)
    """

    signal: ClassVar[Signal] = "sample"
    against: ClassVar[Against] = "last"
    relative: ClassVar[bool] = False
    needs_output: ClassVar[bool] = True
    memory: ClassVar[tuple[float, ...]] = (0.0, 0.0, 0.0)  # spent, k, mean|v_c|; not known yet: 0 / 0 is NaN

    def decide(self, change: Tensor | None, memory: Tensor, numbers: Tensor, progress: Progress) -> Decision:
        assert change is not None
        spent, gain, size = memory.unbind(0)
        number = spent + gain * change / size
        return Decision(number, torch.stack((number, gain, size)), memory)

    def learn(
        self,
        computed: Tensor,
        given: tuple[Tensor, Tensor],
        returned: tuple[Tensor, Tensor],
        size_of: Callable[[Tensor], Tensor] = mean_size,
    ) -> Tensor:
        moved, gained = (size_of(now - before) for now, before in (given, returned))
        size = size_of(returned[0])
        learned = torch.stack((torch.zeros_like(size), gained / moved, size))
        return torch.where(computed > 0, learned, torch.zeros_like(learned))
