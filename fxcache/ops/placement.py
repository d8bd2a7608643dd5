"""Values on another device than what they meet: where the blocks of a model are split over several."""

from __future__ import annotations

import torch
from torch import Tensor


def moved(value: Tensor, device: torch.device) -> Tensor:
    """`value` on `device`.

    Args:
        value: any shape and dtype.
        device: where what it is computed with is.

    Example:
        >>> import torch
        >>> from fxcache.ops.placement import moved
        >>> moved(torch.ones(3), torch.device("meta")).device
        device(type='meta')
    """
    return value.to(device)
