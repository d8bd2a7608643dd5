"""A policy that never hits: it writes down how what is cached changes from step to step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from ..ops.residual_diff import mean_size
from ..policies import Decision, Policy, Progress
from ..policies.base import Signal

What = Literal["change", "ratio"]


@dataclass(frozen=True)
class Watch(Policy):
    """Its number at step t + 1 is what it saw at step t, where every step computes.

    what: "change", the relative L1 change of what is cached; "ratio", the mean of how many times as long its
        vectors, along the last dimension, are as at the step before.

    Example:
        >>> import torch
        >>> from fxcache.calibration.watch import Watch
        >>> pair = (torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]))
        >>> Watch("ratio").learn(torch.tensor(1), given=pair, returned=pair)
        tensor([5.])
    """

    what: What = "change"

    signal: ClassVar[Signal] = "none"
    memory: ClassVar[tuple[float, ...]] = (0.0,)

    def __post_init__(self) -> None:
        if self.what not in ("change", "ratio"):
            raise ConfigError("policy", self, 'its what must be "change" or "ratio"')

    def decide(self, change: Tensor | None, memory: Tensor, numbers: Tensor, progress: Progress) -> Decision:
        return Decision(memory[0], memory, memory)

    def learn(
        self,
        computed: Tensor,
        given: tuple[Tensor, Tensor],
        returned: tuple[Tensor, Tensor],
        size_of: Callable[[Tensor], Tensor] = mean_size,
    ) -> Tensor:
        value, before = (tensor.to(torch.float32) for tensor in returned)
        if self.what == "change":
            seen = size_of(value - before) / size_of(before)
        else:
            seen = size_of(value.norm(dim=-1) / (before.norm(dim=-1) + 1e-8))
        return seen.reshape(1)
