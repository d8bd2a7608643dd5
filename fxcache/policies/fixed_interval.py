"""Every n-th step computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Decision, Policy, Progress, Signal


@dataclass(frozen=True)
class FixedInterval(Policy):
    """0 within an interval and infinite at its end, so that any threshold above 0 will do.

    Source: the schedule of TaylorSeer (arXiv 2503.06923) and of many others.

    interval: N, of which the first step is computed, and N - 1 are hits. 2 or more.

    Raises:
        ConfigError: the interval is no such number.

    Example:
        >>> import torch
        >>> from fxcache import FixedInterval
        >>> from fxcache.policies.base import Progress
        >>> runs = (Progress(None, torch.tensor(run), None, None) for run in (0.0, 1.0, 2.0))
        >>> [FixedInterval(3).decide(None, torch.zeros(0), torch.tensor([3.0]), at).number for at in runs]
        [tensor(0.), tensor(0.), tensor(inf)]
    """

    interval: int = 5

    signal: ClassVar[Signal] = "none"
    in_state: ClassVar[tuple[str, ...]] = ("interval",)

    def __post_init__(self) -> None:
        whole = isinstance(self.interval, int) and not isinstance(self.interval, bool)
        self._require(whole and self.interval >= 2, "interval", "must be a whole number of at least 2")

    def numbers(self) -> tuple[float, ...]:
        return (float(self.interval),)

    def decide(self, change: Tensor | None, memory: Tensor, numbers: Tensor, progress: Progress) -> Decision:
        number = torch.where(progress.run + 1 < numbers[0], 0.0, float("inf"))
        return Decision(number, memory, memory)
