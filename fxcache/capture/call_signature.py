"""Calls of a forward: canonical argument structure, flat tensors, and the keys that tell calls apart.

A *structure key* holds everything about a call that a captured graph bakes in (names, constants,
dtypes, devices, ranks, memory layout, autocast, training mode). A *call key* adds the shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ..environment.ambient_settings import ambient_key
from ..environment.fingerprint import fingerprint
from ..environment.ignored import Ignored
from ..environment.opaque_objects import is_opaque
from ..environment.structure import Structure, named_leaves, tensor_fields
from ..environment.values import UntellableError, exact
from ..errors import OpaqueInputError
from ..torch_private import pytree

# Kinds that are equal only where they mean the same, given that the kinds are.
EXACT = frozenset((type(None), bool, int, str, bytes, torch.dtype, torch.device, torch.layout))


@dataclass(frozen=True)
class Call:
    """One call, flattened: `key` (hashable), the tensors in a fixed order, and the opaque objects.

    numbers: names of tensors that stand for numbers.
    """

    key: tuple[Any, ...]
    tensors: list[torch.Tensor]
    objects: list[Any] = field(default_factory=list)
    numbers: tuple[str, ...] = ()


def flatten(bound: Mapping[str, Any], training: bool) -> Call:
    """Flatten bound arguments quickly; this runs on every call.

    Raises `OpaqueInputError` for an argument that cannot be compared with a later call's.
    """
    tensors: list[torch.Tensor] = []
    objects: list[Any] = []
    key: list[Any] = [training, ambient_key()]
    for name, value in bound.items():
        if isinstance(value, torch.Tensor):
            tensors.append(value)
            layout = value.is_contiguous() or value.stride()
            key.append((name, value.dtype, value.device, layout, value.shape))
        elif type(value) in EXACT:
            key.append((name, type(value), value))
        elif type(value) is float:
            key.append((name, float, exact(value)))
        else:
            try:
                key.append((name, _tree_key(value, tensors, objects)))
            except UntellableError as error:
                raise OpaqueInputError(name, error.kind) from error
            except RecursionError as error:  # raised by `pytree`: a container that holds itself
                raise OpaqueInputError(name, f"{type(value).__name__} that is nested too deeply") from error
    return Call(tuple(key), tensors, objects)


def _tensor_key(value: torch.Tensor) -> tuple[Any, ...]:
    return value.dtype, value.device, value.is_contiguous() or value.stride(), value.shape


def _tree_key(value: Any, tensors: list[torch.Tensor], objects: list[Any]) -> tuple[Any, ...]:
    leaves, spec = pytree.tree_flatten(value)
    structure: Any = spec
    keys: list[Any] = []
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            tensors.append(leaf)
            keys.append(_tensor_key(leaf))
        elif type(leaf) in EXACT:
            keys.append((type(leaf), leaf))
        elif type(leaf) is Ignored:
            keys.append((Ignored,))
        elif (fields := tensor_fields(leaf)) is not None:
            within, *inner = _tree_key(fields, tensors, objects)
            structure = (structure, len(keys), type(leaf), within)
            keys += inner
        else:
            keys.append(fingerprint(leaf))
            if is_opaque(leaf):
                objects.append(leaf)
    return structure, *keys


def structure_key(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """`key` without the sizes, which a symbolic capture may keep dynamic."""

    def strip(part: Any) -> Any:
        if isinstance(part, torch.Size):
            return len(part)
        return tuple(strip(p) for p in part) if type(part) is tuple else part

    return tuple(strip(part) for part in key)


def tensor_names(bound: Mapping[str, Any]) -> list[str]:
    """A readable name for each flat tensor, in the order of `flatten`: `x`, `samples[0].mask`."""
    names: list[str] = []
    for name, value in bound.items():
        names += [path for path, leaf in named_leaves(name, value) if isinstance(leaf, torch.Tensor)]
    return names


def arguments_structure(bound: Mapping[str, Any]) -> Structure:
    """The structure of the arguments, its slots in the order of `flatten`."""
    structure, _ = Structure.of(dict(bound), fields=True)
    return structure
