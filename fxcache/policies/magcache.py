"""MagCache: a table of how residuals shrink from step to step, and nothing of this run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..ops.knobs import LENGTH
from .base import Decision, Policy, Progress, Seen, Signal
from .finite import finite_numbers


@dataclass(frozen=True)
class MagCache(Policy):
    """The sum, since the last computed step c, of `|1 - r_(c+1) ... r_t|` for each hit t and this step.

    r_t is by how much the size of what is cached changes from step t - 1 to t, measured beforehand. It looks
    at nothing in a run, and needs no block. Source: MagCache (arXiv 2506.09045), as its code and
    diffusers have it; its K is `max_continuous_cached_steps`, and its retention the warmup.

    ratios: r of each step, the first one's is not used; the steps beyond count as 1. `fxcache.calibrate`
        finds those of a model, [1.0] will do before. `resampled` makes them fit another number of steps.

    Raises:
        ConfigError: there is none, one is not finite, or there are more than 1024.

    Example:
        >>> import torch
        >>> from fxcache import MagCache
        >>> from fxcache.policies.base import Progress
        >>> policy = MagCache(ratios=(1, 0.75, 0.5))
        >>> numbers, at = torch.tensor(policy.numbers()), Progress(*torch.tensor([2.0, 1.0, 1.0, 0.0]))
        >>> memory = torch.tensor([0.25, 0.75])  # what step 1 left: its error, and the product so far
        >>> policy.decide(None, memory, numbers, at).number  # 0.25 + |1 - 0.75 * 0.5|
        tensor(0.8750)
    """

    ratios: Sequence[float]

    signal: ClassVar[Signal] = "none"
    memory: ClassVar[tuple[float, ...]] = (0.0, 1.0)
    fitted_to: ClassVar[tuple[str, ...]] = ("ratio",)
    in_state: ClassVar[tuple[str, ...]] = ("ratios",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratios", finite_numbers(self, "ratios"))
        self._require(len(self.ratios) <= LENGTH, "ratios", f"must be for at most {LENGTH} steps")

    def numbers(self) -> tuple[float, ...]:
        return (*self.ratios, *[1.0] * (LENGTH - len(self.ratios)))

    def decide(self, change: Tensor | None, memory: Tensor, numbers: Tensor, progress: Progress) -> Decision:
        place = progress.step.to(torch.int64).clamp(max=LENGTH - 1).reshape(1)
        ratio = memory[1] * numbers.index_select(0, place).reshape(())
        number = memory[0] + (1 - ratio).abs()
        anew = torch.stack((torch.zeros_like(ratio), torch.ones_like(ratio)))
        return Decision(number, torch.stack((number, ratio)), anew)

    def fitted(self, seen: Seen) -> MagCache:
        means = [sum(step) / len(step) for step in zip(*seen.ratio, strict=True)]
        last = means[-1:] or [1.0]  # of the last step, of which nothing is known, that of the one before
        return MagCache((1.0, *means, *last))

    def resampled(self, steps: int) -> MagCache:
        """Its ratios for another number of steps, each the nearest one's, as MagCache does.

        Example:
            >>> from fxcache import MagCache
            >>> MagCache(ratios=(1, 0.9, 0.8)).resampled(5).ratios
            (1.0, 1.0, 0.9, 0.8, 0.8)
        """
        if steps == 1:
            return MagCache(self.ratios[-1:])
        scale = (len(self.ratios) - 1) / (steps - 1)
        places = torch.round(torch.arange(steps, dtype=torch.float32) * scale).long()
        return MagCache(tuple(self.ratios[place] for place in places.tolist()))
