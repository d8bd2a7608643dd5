"""A budget for a run of hits: changes of the front residual from step to step, added up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import Against, Decision, Policy, Progress, Signal


@dataclass(frozen=True)
class Budget(Policy):
    """The sum, since the last computed step, of `mean|f_t - f_(t-1)| / mean|f_(t-1)|`.

    f is what the first Fn blocks add. A computed step begins a new sum, which
    `max_accumulated_residual_diff` does not. Source: the probe of DiCache (arXiv 2508.17356), with TeaCache's
    accumulation.

    Example:
        >>> import torch
        >>> from fxcache import Budget
        >>> spent = torch.tensor([0.1])
        >>> decision = Budget().decide(torch.tensor(0.25), spent, torch.zeros(0), None)
        >>> decision.number, decision.if_hit, decision.if_computed
        (tensor(0.3500), tensor([0.3500]), tensor([0.]))
    """

    signal: ClassVar[Signal] = "residual"
    against: ClassVar[Against] = "last"
    memory: ClassVar[tuple[float, ...]] = (0.0,)

    def decide(self, change: Tensor | None, memory: Tensor, numbers: Tensor, progress: Progress) -> Decision:
        assert change is not None
        return spend(memory, change)


def spend(memory: Tensor, amount: Tensor) -> Decision:
    """Add `amount` to what was spent, [1]; a computed step begins anew.

    Example:
        >>> import torch
        >>> from fxcache.policies.budget import spend
        >>> spend(torch.tensor([0.5]), torch.tensor(0.25)).number
        tensor(0.7500)
    """
    spent = memory + amount
    return Decision(spent[0], spent, memory * 0.0)
