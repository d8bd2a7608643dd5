"""A rank's own part of a tensor that several hold parts of."""

from __future__ import annotations

from torch import Tensor


def own_part(value: Tensor, dimension: int, size: int, rank: int) -> Tensor:
    """What rank `rank` of `size` takes of `value` where it is split along a dimension into equal parts.

    Example:
        >>> import torch
        >>> from fxcache.ops.shard import own_part
        >>> own_part(torch.tensor([1, 2, 3, 4]), dimension=0, size=2, rank=1)
        tensor([3, 4])
    """
    return value.chunk(size, dimension)[rank]
