"""The signal of DBCache and FBCache: how far the front residual moved since the last computed step."""

from __future__ import annotations

import torch
from torch import Tensor


def residual_diff(residual: Tensor, previous: Tensor) -> Tensor:
    """Relative L1 change `mean|residual - previous| / mean|previous|`, a 0-dim float32 tensor.

    Both means are taken in float32, so that thresholds do not quantize in bfloat16. It is NaN where both
    are zero, and infinite where only `previous` is. Source: the criterion of DBCache (cache-dit) and of
    FBCache (ParaAttention).

    Args:
        residual: what the front blocks add at this step, e.g. [batch, tokens, channels], of any float dtype.
        previous: the same of the last computed step.

    Example:
        >>> import torch
        >>> from fxcache.ops.residual_diff import residual_diff
        >>> residual_diff(torch.tensor([1.1, 2.0], dtype=torch.bfloat16), torch.tensor([1.0, 2.0]))
        tensor(0.0339)
    """
    change = (residual - previous).abs().mean(dtype=torch.float32)
    return change / previous.abs().mean(dtype=torch.float32)


def mean_change(value: Tensor, before: Tensor) -> Tensor:
    """Mean absolute change, a 0-dim float32 tensor.

    Args:
        value, before: of one shape, and any number type.

    Example:
        >>> import torch
        >>> from fxcache.ops.residual_diff import mean_change
        >>> mean_change(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.5]))
        tensor(0.2500)
    """
    return (value - before).abs().mean(dtype=torch.float32)


def largest_row_diff(residual: Tensor, previous: Tensor) -> Tensor:
    """The largest `residual_diff` of a row of the batch, a 0-dim float32 tensor; NaN where one of them is.

    So a batch hits only where each of its rows would, and no picture gets worse for its neighbors.

    Args:
        residual: what the front blocks add at this step, [batch, ...], of any float dtype.
        previous: the same of the last computed step.

    Example:
        >>> import torch
        >>> from fxcache.ops.residual_diff import largest_row_diff
        >>> largest_row_diff(torch.tensor([[1.0, 1.5], [2.0, 2.0]]), torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
        tensor(0.2500)
    """
    rows = (residual.shape[0], -1)
    change = (residual - previous).abs().reshape(rows).mean(1, dtype=torch.float32)
    return (change / previous.abs().reshape(rows).mean(1, dtype=torch.float32)).max()


def mean_size(value: Tensor) -> Tensor:
    """Mean absolute value, 0-dim float32.

    Example:
        >>> import torch
        >>> from fxcache.ops.residual_diff import mean_size
        >>> mean_size(torch.tensor([-1.0, 2.0], dtype=torch.bfloat16))
        tensor(1.5000)
    """
    return value.abs().mean(dtype=torch.float32)
