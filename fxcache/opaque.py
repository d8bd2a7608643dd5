"""Objects that are neither tensors, numbers nor containers: KV caches, block masks, processors.

They travel through the graph by reference. Two questions matter: did a call write to one, and is a
later call given the same one.
"""

from __future__ import annotations

from typing import Any

import torch

PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.layout)


def is_opaque(value: Any) -> bool:
    """Whether `value` is an object that only travels by reference."""
    from .structure import DYNAMIC, Fields, Slot, Structure

    return not isinstance(value, (*PLAIN, *DYNAMIC, Fields, Slot, Structure))


def fingerprint(value: Any, depth: int = 4) -> Any:
    """A value that changes when anything reachable from `value` within `depth` is written to."""
    if isinstance(value, torch.Tensor):
        return ("tensor", id(value), 0 if value.is_inference() else value._version)
    if isinstance(value, PLAIN):
        return value
    if depth == 0:
        return id(value)
    if isinstance(value, (list, tuple, set, frozenset)):
        return (id(value), *(fingerprint(v, depth - 1) for v in value))
    if isinstance(value, dict):
        return (id(value), *((k, fingerprint(v, depth - 1)) for k, v in value.items()))
    if isinstance(value, torch.nn.Module) or callable(value):
        return id(value)
    return (id(value), fingerprint(getattr(value, "__dict__", {}), depth - 1))


def tensors_within(value: Any, depth: int = 4) -> list[torch.Tensor]:
    """The tensors reachable from `value` within `depth`."""
    if isinstance(value, torch.Tensor):
        return [value]
    if depth == 0 or isinstance(value, (*PLAIN, torch.nn.Module, type)):
        return []
    if isinstance(value, dict):
        held = list(value.values())
    elif isinstance(value, (list, tuple, set, frozenset)):
        held = list(value)
    else:  # a function may close over tensors
        cells = getattr(value, "__closure__", None) or ()
        held = [*getattr(value, "__dict__", {}).values(), *(filled(c) for c in cells)]
    return [t for v in held for t in tensors_within(v, depth - 1)]


def filled(cell: Any) -> Any:
    """What a closure's cell holds; None where it is empty."""
    try:
        return cell.cell_contents
    except ValueError:
        return None
