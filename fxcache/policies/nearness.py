"""Whether a sample may be the one after the last: what tells runs apart where time does not.

One step of a sampler moves the sample a little. Another run begins with noise of its own, which is at
1.4 of the last sample's size from it where both are equally large, and never nearer than 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEAR = 0.8  # distance up to which a sample may follow another


def is_near(sample: Tensor, last: Tensor) -> Tensor:
    """Whether `sample` is nearer than `NEAR` to `last`, a 0-dim bool tensor; what has no distance is not."""
    return distance(sample, last) < NEAR


def distance(sample: Tensor, last: Tensor) -> Tensor:
    """Relative L1 distance `sum|sample - last| / sum|last|`, 0-dim; NaN where there is none.

    Of whole numbers (tokens), which have no distance, the share that changed. Norms are one operator
    each, where means of absolute values are two; each step pays for them.
    """
    if not (sample.is_floating_point() or sample.is_complex()):
        return (sample != last).mean(dtype=torch.float32)
    dtype = torch.float32 if sample.dtype.itemsize < 4 else None  # sums, which half precision cannot hold
    move, size = (torch.linalg.vector_norm(v, 1, dtype=dtype) for v in (sample - last, last))
    return move / size
