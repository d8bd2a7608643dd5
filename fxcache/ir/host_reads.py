"""Values read on the host: each read of an accelerator waits for all that was given it to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def waits(device: torch.device) -> bool:
    """Whether to read a value of this device waits for it.

    Example:
        >>> import torch
        >>> from fxcache.ir.host_reads import waits
        >>> waits(torch.device("cpu")), waits(torch.device("cuda"))
        (False, True)
    """
    return device.type not in ("cpu", "meta")


def read(flags: Sequence[Tensor]) -> list[bool]:
    """The values of 0-dim bools, with one wait for each device.

    Example:
        >>> import torch
        >>> from fxcache.ir.host_reads import read
        >>> read([torch.tensor(True), torch.tensor(False)])
        [True, False]
    """
    places: dict[torch.device, list[int]] = {}
    for place, flag in enumerate(flags):
        places.setdefault(flag.device, []).append(place)
    found = [False] * len(flags)
    for group in places.values():
        values = torch.stack([flags[place] for place in group]).tolist()
        for place, value in zip(group, values, strict=True):
            found[place] = value
    return found


def equal(pairs: Sequence[tuple[Tensor, Tensor]]) -> list[bool]:
    """`torch.equal` of tensors alike in shape, dtype and device, with one wait for each device.

    Example:
        >>> import torch
        >>> from fxcache.ir.host_reads import equal
        >>> equal([(torch.ones(2), torch.ones(2)), (torch.ones(2), torch.zeros(2))])
        [True, False]
    """
    if not any(waits(now.device) for _, now in pairs):
        return [torch.equal(before, now) for before, now in pairs]  # ends at the first difference
    return read([(before == now).all() for before, now in pairs])
