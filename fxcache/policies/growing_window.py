"""Intervals that grow as a trajectory goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .base import Decision, Policy, Progress, Signal
from .finite import is_finite


@dataclass(frozen=True)
class GrowingWindow(Policy):
    """0 within a window and infinite at its end; each window that ends makes the next one longer.

    A window of w has `floor(w) - 1` hits and then a computed step. Any threshold above 0 will do. Source: the
    schedule of Spectrum (arXiv 2603.01623), as its code has it: with a warmup of 5, growth 0.75 computes 14
    of 50 steps and 3 computes 10.

    window: length of the first, 2 or more. growth: by how much each is longer than the one before, 0 or more.

    Raises:
        ConfigError: a field is out of range.

    Example:
        >>> import torch
        >>> from fxcache import GrowingWindow
        >>> from fxcache.policies.base import Progress
        >>> policy, memory = GrowingWindow(window=2, growth=1), torch.tensor([0.0])
        >>> numbers = torch.tensor(policy.numbers())
        >>> for run in (0.0, 1.0):
        ...     decision = policy.decide(None, memory, numbers, Progress(None, torch.tensor(run), None, None))
        ...     print(decision.number, decision.if_computed)
        tensor(0.) tensor([0.])
        tensor(inf) tensor([1.])
    """

    window: float = 2.0
    growth: float = 0.75

    signal: ClassVar[Signal] = "none"
    memory: ClassVar[tuple[float, ...]] = (0.0,)  # windows that ended
    in_state: ClassVar[tuple[str, ...]] = ("window", "growth")

    def __post_init__(self) -> None:
        for name, least in (("window", 2.0), ("growth", 0.0)):
            value = getattr(self, name)
            fits = is_finite(value) and value >= least
            self._require(fits, name, f"must be a finite number of at least {least:g}")

    def numbers(self) -> tuple[float, ...]:
        return (float(self.window), float(self.growth))

    def decide(self, change: Tensor | None, memory: Tensor, numbers: Tensor, progress: Progress) -> Decision:
        length = torch.floor(numbers[0] + numbers[1] * memory[0])
        ends = torch.remainder(progress.run + 1, length) == 0
        number = torch.where(ends, float("inf"), 0.0)
        return Decision(number, memory, memory + ends)
