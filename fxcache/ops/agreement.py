"""What several processes decide together: what each saw of its part is gathered; all add up the same rows.

Gathered, not reduced, so that every rank has the same bits whatever the collective does inside. A *share* is
a numerator and a denominator of one measurement, over this rank's part of the sample; their sums over the
ranks give what one process would have measured, which means of means do not.

A group is (name, size); several are gathered one after the other. A name, as only that goes into code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .clock import LIVE
from .nearness import NEAR, distance_share
from .residual_diff import mean_size

Groups = tuple[tuple[str, int], ...]


def gather(numbers: Tensor, name: str, size: int) -> Tensor:
    """`numbers` of every rank of a group, [size, n], in the order of the ranks.

    numbers: [n], of the same n everywhere.

    Example:
        >>> import torch
        >>> import torch.distributed as dist
        >>> from fxcache.ops.agreement import gather
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> gather(torch.ones(2), dist.group.WORLD.group_name, size=1)
        tensor([[1., 1.]])
        >>> dist.destroy_process_group()
    """
    # Functional collectives: these are traced and compiled, and a conditional may hold them.
    gathered = torch.ops._c10d_functional.all_gather_into_tensor(numbers, size, name)
    return torch.ops._c10d_functional.wait_tensor(gathered).view(size, -1)  # type: ignore[no-any-return]


def add_up(rows: Tensor, size: int) -> Tensor:
    """The sum of `size` rows, one after the other: a reduction may be compiled otherwise on another rank.

    Example:
        >>> import torch
        >>> from fxcache.ops.agreement import add_up
        >>> add_up(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), size=2)
        tensor([4., 6.])
    """
    total = rows[0]
    for rank in range(1, size):
        total = total + rows[rank]
    return total


def gather_shares(
    shares: Sequence[Tensor], clock: Tensor, others: Sequence[Tensor], groups: Groups
) -> tuple[Tensor, Tensor]:
    """What all ranks measured together, and whether they stand at the same step.

    Args:
        shares: what this rank measured, each [k] float32, the longest of them last.
        clock: [4, WIDTH] float32; its live row must be the same on all ranks.
        others: what must be the same as well, each [k] float32: settings, what a leader did.
        groups: the groups of ranks that hold parts of the sample.

    Returns:
        sums: [all k] float32. same: 0-dim bool. Both have the same bits on every rank.

    Example:
        >>> import torch
        >>> from fxcache.ops.agreement import gather_shares
        >>> from fxcache.ops.clock import initial_clock
        >>> gather_shares([torch.ones(2)], torch.tensor(initial_clock()), [], groups=())
        (tensor([1., 1.]), tensor(True))
    """
    live = clock[LIVE]
    # A share on the CPU is copied to a GPU without waiting for that; the other way it has to wait.
    there = [share.to(live.device, non_blocking=share.device.type == "cpu") for share in shares]
    sums = torch.cat([live[:0], *there])
    count = sums.shape[0]
    own = torch.cat((live, *others))
    same = torch.ones_like(own[:1])
    for name, size in groups:
        rows = gather(torch.cat((own, same, sums)), name, size)
        owns, sames = rows[:, : own.shape[0]], rows[:, own.shape[0]]
        agreed = (owns == owns[:1]).all() & (sames > 0).all()
        same = agreed.reshape(1).to(own.dtype)
        sums = add_up(rows[:, rows.shape[1] - count :], size)
    return sums, same.reshape(()) > 0


def whole(sums: Tensor, place: int) -> Tensor:
    """The measurement whose share begins at `place`, 0-dim float32.

    Example:
        >>> import torch
        >>> from fxcache.ops.agreement import whole
        >>> whole(torch.tensor([9.0, 1.0, 4.0]), place=1)
        tensor(0.2500)
    """
    return sums[place] / sums[place + 1]


def largest_whole(sums: Tensor, place: int) -> Tensor:
    """The largest of several measurements, all numerators before all denominators; they are the last.

    Example:
        >>> import torch
        >>> from fxcache.ops.agreement import largest_whole
        >>> largest_whole(torch.tensor([9.0, 1.0, 3.0, 4.0, 4.0]), place=1)
        tensor(0.7500)
    """
    changes, sizes = sums[place:].unflatten(0, (2, -1)).unbind(0)
    return (changes / sizes).max()


def near_together(sums: Tensor, place: int, same: Tensor) -> Tensor:
    """Whether the samples of all ranks may follow their last ones, 0-dim bool; not where ranks stand apart.

    Each part counts as made as large as it was: ranks need not know of one another's sizes for that.

    Example:
        >>> import torch
        >>> from fxcache.ops.agreement import near_together
        >>> shares = torch.tensor([0.5, 1.0])
        >>> near_together(shares, 0, torch.tensor(True)), near_together(shares, 0, torch.tensor(False))
        (tensor(True), tensor(False))
    """
    return (whole(sums, place) < NEAR) & same


def both(near: Tensor, same: Tensor) -> Tensor:
    """Whether the sample is near, and the ranks stand at the same step.

    Example:
        >>> import torch
        >>> from fxcache.ops.agreement import both
        >>> both(torch.tensor(True), torch.tensor(False))
        tensor(False)
    """
    return near & same


def unanimous(hit: Tensor, groups: Groups) -> Tensor:
    """Whether every rank of the groups would hit, 0-dim bool: a vote, of ranks with samples of their own.

    Example:
        >>> import torch
        >>> from fxcache.ops.agreement import unanimous
        >>> unanimous(torch.tensor(True), groups=())
        tensor(True)
    """
    for name, size in groups:
        hit = (gather(hit.reshape(1).to(torch.float32), name, size) > 0).all()
    return hit


def time_share(timestep: Tensor) -> Tensor:
    """That of the mean timestep, [2].

    Example:
        >>> import torch
        >>> from fxcache.ops.agreement import time_share
        >>> time_share(torch.tensor([900.0, 700.0]))
        tensor([1600.,    2.])
    """
    return _share_of_mean(timestep.mean(dtype=torch.float32), timestep)


def near_share(sample: Tensor, last: Tensor) -> Tensor:
    """That of the distance of a sample from the last one, [2]. As `nearness.distance` has them.

    Example:
        >>> import torch
        >>> from fxcache.ops.agreement import near_share
        >>> near_share(torch.tensor([2.0, 2.0]), torch.tensor([1.0, 1.0]))
        tensor([0., 2.])
    """
    return torch.stack([number.to(torch.float32) for number in distance_share(sample, last)])


def change_share(value: Tensor, before: Tensor) -> Tensor:
    """That of `residual_diff`, [2].

    Example:
        >>> import torch
        >>> from fxcache.ops.agreement import change_share
        >>> change_share(torch.tensor([1.5, 2.0]), torch.tensor([1.0, 1.0]))
        tensor([1.5000, 2.0000])
    """
    parts = ((value - before).abs(), before.abs())
    return torch.stack([part.sum(dtype=torch.float32) for part in parts])


def mean_change_share(value: Tensor, before: Tensor) -> Tensor:
    """That of `mean_change`, [2].

    Example:
        >>> import torch
        >>> from fxcache.ops.agreement import mean_change_share
        >>> mean_change_share(torch.tensor([1.5, 2.0]), torch.tensor([1.0, 1.0]))
        tensor([1.5000, 2.0000])
    """
    return _share_of_mean((value - before).abs().mean(dtype=torch.float32), value)


def row_shares(value: Tensor, before: Tensor) -> Tensor:
    """Those of `largest_row_diff`, [2 * batch]: of all rows the numerators, then the denominators.

    Example:
        >>> import torch
        >>> from fxcache.ops.agreement import row_shares
        >>> row_shares(torch.tensor([[1.5], [2.0]]), torch.tensor([[1.0], [2.0]]))
        tensor([0.5000, 0.0000, 1.0000, 2.0000])
    """
    parts = ((value - before).abs(), before.abs())
    rows = (value.shape[0], -1)
    return torch.cat([part.reshape(rows).sum(1, dtype=torch.float32) for part in parts])


def _share_of_mean(mean: Tensor, of: Tensor) -> Tensor:
    return torch.stack((mean * of.numel(), torch.zeros_like(mean) + of.numel()))


@dataclass(frozen=True)
class LearnTogether:
    """A policy's `learn`, with means over the parts of all ranks. `learn`: that of the policy.

    Example:
        >>> import torch
        >>> from fxcache import EasyCache
        >>> from fxcache.ops.agreement import LearnTogether
        >>> x, y = (torch.tensor([3.0]), torch.tensor([1.0])), (torch.tensor([5.0]), torch.tensor([1.0]))
        >>> LearnTogether(EasyCache().learn, groups=()).learn_together(torch.tensor(1), x, y)
        tensor([0., 2., 5.])
    """

    learn: Callable[..., Tensor]
    groups: Groups

    def learn_together(self, computed: Tensor, given: Any, returned: Any) -> Tensor:
        """As `Policy.learn`."""
        return self.learn(computed, given, returned, self._mean_size)

    def _mean_size(self, value: Tensor) -> Tensor:
        sums = _share_of_mean(mean_size(value), value)
        for name, size in self.groups:
            sums = add_up(gather(sums, name, size), size)
        return whole(sums, 0)
