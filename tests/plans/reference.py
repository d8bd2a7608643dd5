"""A plan followed in a plain loop, with no graph: lists, and the sum as it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from fxcache import Plan


def follow(plan: Plan, values: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
    """What is used at each step, of what `values` compute."""
    known: list[Tensor] = []  # the latest first
    used: list[Tensor] = []
    for step, (own, *others) in enumerate(plan.weights):
        total: Tensor | float = 0.0
        value = values[step]() if step in plan.computed else None
        if value is not None:
            total = own * value.double()
        for weight, past in zip(others, known, strict=False):
            total = total + weight * past.double()
        if value is not None:
            known.insert(0, value)
        assert isinstance(total, Tensor)
        used.append(total)
    return used
