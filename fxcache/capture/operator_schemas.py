"""What an operator's schema says of it: what it writes, whether it draws random numbers, its effects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from ..torch_private import OpOverload, registered_effect, storage_id

CHANCES = ("dropout_p", "p", "dropout")  # arguments without which an operator draws nothing
COLLECTIVES = ("c10d", "_c10d_functional", "_c10d_functional_autograd", "symm_mem")
TRAINING = ("train", "training")
NUMBERS_WANTED = "expected to contain only concrete integers"  # a kernel's answer to symbolic amounts


def written_by(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """The tensors that a call of `func` writes to."""
    if not isinstance(func, OpOverload) or not func._schema.is_mutable:
        return
    for value in _with_values(
        func, args, kwargs, lambda a: a.alias_info is not None and a.alias_info.is_write
    ):
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, torch.Tensor):
                yield item


def _with_values(
    func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], chosen: Any
) -> Iterator[Any]:
    for i, argument in enumerate(func._schema.arguments):
        if chosen(argument):
            default = argument.default_value if argument.has_default_value() else None
            yield args[i] if i < len(args) else kwargs.get(argument.name, default)


def draws(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of `func` takes numbers from the random generator."""
    if not isinstance(func, OpOverload) or torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    chances = [v for v in _with_values(func, args, kwargs, lambda a: a.name in CHANCES)]
    if chances and all(isinstance(v, (int, float)) and v == 0 for v in chances):
        return False
    training = [v for v in _with_values(func, args, kwargs, lambda a: a.name in TRAINING)]
    return not training or any(v is not False for v in training)


def unordered(func: Any) -> str | None:
    """Why a graph of values cannot hold a call of `func`; None where it can."""
    if not isinstance(func, OpOverload):
        return None
    if func.namespace == "c10d":
        return "a collective that works in place"
    if any("__torch__" in str(r.type) for r in func._schema.returns):
        return "it returns an object that is no tensor"
    if not func._schema.returns:
        return "it returns nothing, so it is run for an effect"
    if func.namespace != "aten" and registered_effect(func) is not None:
        return "it is registered to have side effects"
    return None


def is_collective(func: Any) -> bool:
    """Whether other processes take part in a call of `func`."""
    return isinstance(func, OpOverload) and func.namespace in COLLECTIVES


def storage_of(tensor: torch.Tensor) -> int | None:
    """A number for the memory of `tensor`, which views share; None where it has none of its own."""
    try:
        return storage_id(tensor)
    except (NotImplementedError, RuntimeError):  # sparse, or a wrapper of other tensors
        return None
