"""The history of a cached value: what it was at the last computed steps, a ring with one slot for each.

A computed step writes one slot; a hit reads a weighted sum of all.
"""

from __future__ import annotations

import torch
from torch import Tensor


def remember(history: Tensor, value: Tensor, computed: Tensor) -> None:
    """Write `value` into its slot of `history`, in place of the oldest.

    Args:
        history: [k, ...] of the value's dtype, or another; written.
        value: [...], the value at this step.
        computed: 0-dim, how many steps of the trajectory were computed before this one.

    Example:
        >>> import torch
        >>> from fxcache.ops.history import remember
        >>> history = torch.zeros(2, 3)
        >>> for count in range(3):
        ...     remember(history, torch.full((3,), 10.0 + count), torch.tensor(count))
        >>> history[:, 0]
        tensor([12., 11.])
    """
    slots = history.shape[0]
    if slots == 1:
        history[0].copy_(value)
        return
    slot = computed.to(torch.int64).remainder(slots).reshape(1).to(history.device)
    value = value.to(device=history.device, dtype=history.dtype).unsqueeze(0)
    if history.dtype.itemsize == 1:  # there is no such operator of float8
        history, value = history.view(torch.uint8), value.view(torch.uint8)
    history.index_copy_(0, slot, value)


def by_slot(weights: Tensor, computed: Tensor) -> Tensor:
    """Weights of the last computed values in the order of their slots.

    Args:
        weights: [k], those of the latest first.
        computed: 0-dim, how many steps of the trajectory were computed before this one; at least 1.

    Returns:
        [k], likewise.

    Example:
        >>> import torch
        >>> from fxcache.ops.history import by_slot
        >>> by_slot(torch.tensor([3.0, 2.0, 1.0]), torch.tensor(5))  # step 4, the latest, is in slot 1
        tensor([2., 3., 1.])
    """
    slots = weights.shape[0]
    latest = computed.to(torch.int64) - 1
    behind = (latest - torch.arange(slots, device=weights.device)).remainder(slots)
    return weights[behind]


def latest(history: Tensor, computed: Tensor) -> Tensor:
    """The value of the last computed step: [...]; whatever lies there, where none was.

    Args:
        history: [k, ...]. computed: 0-dim, how many steps of the trajectory were computed.

    Example:
        >>> import torch
        >>> from fxcache.ops.history import latest
        >>> latest(torch.tensor([[1.0], [2.0]]), torch.tensor(3))
        tensor([1.])
    """
    slots = history.shape[0]
    if slots == 1:
        return history[0]
    slot = (computed.to(torch.int64) - 1).remainder(slots).reshape(1).to(history.device)
    return history.index_select(0, slot).squeeze(0)


def restored(history: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """What is remembered elsewhere, or in another dtype, as it is computed with.

    Args:
        history: [k, ...], or a value of it. device, dtype: those of the model; None leaves it.

    Example:
        >>> import torch
        >>> from fxcache.ops.history import restored
        >>> restored(torch.ones(1, 2, dtype=torch.bfloat16), torch.device("cpu"), torch.float32)
        tensor([[1., 1.]])
    """
    return history.to(device=device, dtype=history.dtype if dtype is None else dtype)


def every_nth(value: Tensor, stride: int) -> Tensor:
    """Every n-th token of [batch, tokens, ...], a copy; all of what has no tokens.

    Example:
        >>> import torch
        >>> from fxcache.ops.history import every_nth
        >>> every_nth(torch.arange(5.0).reshape(1, 5, 1), 2).flatten()
        tensor([0., 2., 4.])
    """
    return value[:, ::stride].contiguous() if value.dim() > 2 else value


def weighted_sum(history: Tensor, weights: Tensor | None = None) -> Tensor:
    """The sum of the values in `history` by `weights`; the only value, where there is one slot.

    A slot of weight 0 is not read: it may be left over from a trajectory that ended in infinities.

    Args:
        history: [k, ...] of a floating dtype.
        weights: [k], by slot.

    Returns:
        [...] of the dtype of `history`, summed up in float32 at least.

    Example:
        >>> import torch
        >>> from fxcache.ops.history import weighted_sum
        >>> weighted_sum(torch.tensor([[1.0, 2.0], [float("nan"), 5.0]]), torch.tensor([2.0, 0.0]))
        tensor([2., 4.])
    """
    if weights is None:
        return history[0]
    return wide_sum(history, weights).to(history.dtype)


def wide_sum(history: Tensor, weights: Tensor) -> Tensor:
    """As `weighted_sum`, in the dtype in which it is summed up: float32 at least.

    Example:
        >>> import torch
        >>> from fxcache.ops.history import wide_sum
        >>> wide_sum(torch.ones(2, 1, dtype=torch.bfloat16), torch.tensor([2.0, -0.5]))
        tensor([1.5000])
    """
    wide = torch.float32 if history.dtype.itemsize < 4 else history.dtype
    weights = weights.to(device=history.device, dtype=wide)
    nothing = torch.zeros((), dtype=wide, device=history.device)
    total: Tensor | None = None
    known = weights != 0
    for slot in range(history.shape[0]):
        term = torch.where(known[slot], history[slot].to(wide) * weights[slot], nothing)
        total = term if total is None else total + term
    assert total is not None
    return total
