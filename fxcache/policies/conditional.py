"""The choice between replaying and computing the middle, and what branches may give back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Branch = Callable[..., tuple[Any, ...]]


def conditional(hit: Tensor, skip: Branch, compute: Branch, operands: Sequence[Any]) -> tuple[Any, ...]:
    """`skip(*operands)` on a hit, else `compute(*operands)`.

    Compiled, it is the conditional operator and stays one graph. In eager it is a plain `if`: there
    `torch.cond` would call the compiler on every step.
    """
    if torch.compiler.is_compiling():
        return torch.ops.higher_order.cond(hit, skip, compute, tuple(operands))  # type: ignore[no-any-return]
    return skip(*operands) if hit else compute(*operands)


def own(value: Tensor) -> Tensor:
    """`value` as a dense tensor of its own, where the conditional operator demands it of branches.

    Blocks may return views of one tensor; in eager they are left as they are.
    """
    if torch.compiler.is_compiling():
        return value.clone(memory_format=torch.contiguous_format)
    return value


def store(slot: Tensor, value: Tensor) -> None:
    """Remember `value` in the state, in place."""
    slot.copy_(value)
