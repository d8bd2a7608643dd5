"""Whether a sample may be the one after the last: what tells runs apart where time does not.

One step of a sampler turns the sample a little, however much it grows or shrinks. Another run begins with
noise of its own, which stands at right angles to the last sample, at a distance of 1.4.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEAR = 0.9  # distance up to which a sample may follow another: an angle of about 53 degrees


def is_near(sample: Tensor, last: Tensor) -> Tensor:
    """Whether `sample` is nearer than `NEAR` to `last`, a 0-dim bool tensor; what has no distance is not.

    Example:
        >>> import torch
        >>> from fxcache.ops.nearness import is_near
        >>> last = torch.tensor([1.0, 0.0])
        >>> is_near(torch.tensor([5.0, 0.1]), last), is_near(torch.tensor([0.0, 1.0]), last)
        (tensor(True), tensor(False))
    """
    return distance(sample, last) < NEAR


def distance(sample: Tensor, last: Tensor) -> Tensor:
    """Relative L1 distance of `sample`, made as large as `last`, from `last`: 0-dim, 0 to 2.

    NaN where one is zero or not finite. Of whole numbers (tokens), which have no distance, the share that
    changed. Both have the same shape, any; the result is float32 for dtypes of less than 4 bytes.

    Example:
        >>> import torch
        >>> from fxcache.ops.nearness import distance
        >>> distance(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 1.0]))
        tensor(0.)
        >>> distance(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 5]))
        tensor(0.2500)
    """
    far, size = distance_share(sample, last)
    return far / size


def distance_share(sample: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of `distance`, 0-dim: of parts of a sample they may be added up.

    Example:
        >>> import torch
        >>> from fxcache.ops.nearness import distance_share
        >>> distance_share(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0]))
        (tensor(1.), tensor(2.))
    """
    if not (sample.is_floating_point() or sample.is_complex()):
        changed = (sample != last).sum(dtype=torch.float32)
        return changed, torch.zeros_like(changed) + sample.numel()
    dtype = torch.float32 if sample.dtype.itemsize < 4 else None  # sums, which half precision cannot hold
    now, before = (torch.linalg.vector_norm(v, 1, dtype=dtype) for v in (sample, last))
    return torch.linalg.vector_norm(sample * (before / now) - last, 1, dtype=dtype), before
