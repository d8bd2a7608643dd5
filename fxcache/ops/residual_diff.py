"""The signal of DBCache and FBCache: how far the front residual moved since the last computed step."""

from __future__ import annotations

import torch
from torch import Tensor


def residual_diff(residual: Tensor, previous: Tensor) -> Tensor:
    """Relative L1 change `mean|residual - previous| / mean|previous|`, a 0-dim float32 tensor.

    Both means are taken in float32, so that thresholds do not quantize in bfloat16.
    """
    change = (residual - previous).abs().mean(dtype=torch.float32)
    return change / previous.abs().mean(dtype=torch.float32)
