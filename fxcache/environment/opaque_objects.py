"""Objects that are neither tensors, numbers nor containers: KV caches, block masks, processors.

They travel through the graph by reference. Two questions matter: did a call write to one, and is a
later call given the same one. `fingerprint` answers both.
"""

from __future__ import annotations

from typing import Any

import torch

from .structure import DYNAMIC, Fields, Slot, Structure
from .values import Outside, UntellableError, opened

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout)


def is_opaque(value: Any) -> bool:
    """Whether `value` is an object that only travels by reference."""
    return not isinstance(value, (*PLAIN, *DYNAMIC, Fields, Slot, Structure))


def tensors_within(value: Any) -> list[torch.Tensor]:
    """The tensors that `value` holds, all the way down, but for those of modules, classes and globals."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, PLAIN):
        return []
    found: list[torch.Tensor] = []
    seen: dict[int, Any] = {}  # keeps alive what has the ids
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, torch.Tensor):
            found.append(one)
        elif not isinstance(one, (*PLAIN, torch.nn.Module, type, Outside)) and id(one) not in seen:
            seen[id(one)] = one
            waiting.extend(reversed(_parts(one)))
    return found


def _parts(value: Any) -> list[Any]:
    try:
        return opened(value)[1]
    except UntellableError:
        return []
