"""What a policy remembers between steps: a few numbers, as one small state tensor.

Row 0 holds them, row 1 what a trajectory begins with, so that a package carries its own starting values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .clock import COMPUTED

LIVE, START = range(2)


def memory_rows(start: tuple[float, ...]) -> tuple[tuple[float, ...], ...]:
    """The rows that the state tensor `memory_i` begins with, [2, m].

    Example:
        >>> from fxcache.ops.memory import memory_rows
        >>> memory_rows((0.0, 1.0))
        ((0.0, 1.0), (0.0, 1.0))
    """
    return (start, start)


def recall(memory: Tensor, now: Tensor) -> Tensor:
    """What is remembered at the beginning of a step: [m]; of a new trajectory nothing of the last one's.

    Args:
        memory: [2, m] float32. now: [WIDTH], the clock's live row.

    Example:
        >>> import torch
        >>> from fxcache.ops.clock import COMPUTED, WIDTH
        >>> from fxcache.ops.memory import recall
        >>> now, memory = torch.zeros(WIDTH), torch.tensor([[0.5], [0.0]])
        >>> begun = recall(memory, now)
        >>> now[COMPUTED] = 1
        >>> begun, recall(memory, now)
        (tensor([0.]), tensor([0.5000]))
    """
    return torch.where(now[COMPUTED] > 0, memory[LIVE], memory[START])


def nothing(now: Tensor) -> Tensor:
    """What a policy that remembers nothing, or has no numbers, is given: [0] float32.

    Example:
        >>> import torch
        >>> from fxcache.ops.memory import nothing
        >>> nothing(torch.zeros(11))
        tensor([])
    """
    return now.new_zeros(0, dtype=torch.float32)


def keep(memory: Tensor, value: Tensor) -> None:
    """Remember `value`, [m], in place.

    Example:
        >>> import torch
        >>> from fxcache.ops.memory import keep
        >>> memory = torch.zeros(2, 1)
        >>> keep(memory, torch.tensor([0.5]))
        >>> memory
        tensor([[0.5000],
                [0.0000]])
    """
    memory[LIVE].copy_(value)
