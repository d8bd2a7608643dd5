"""Tensors inside lists, tuples and dicts, as models take and return them."""

from collections.abc import Callable
from typing import Any

from torch import Tensor


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value`` with each tensor in its lists, tuples and dicts changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(change, item) for item in value)
    if isinstance(value, dict):
        return {key: map_tensors(change, item) for key, item in value.items()}
    return value


def same_structure(left: Any, right: Any) -> bool:
    """Whether two values agree in containers, tensor shapes and dtypes (not in values)."""
    if isinstance(left, Tensor) and isinstance(right, Tensor):
        return left.shape == right.shape and left.dtype == right.dtype
    if type(left) is not type(right):
        return False
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same_structure, left, right))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same_structure(left[k], right[k]) for k in left)
    return True


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in ``value``, in order (the outputs of diffusers are dicts)."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors_in(item)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []
