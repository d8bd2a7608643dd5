"""When two calls of repeated blocks surely give results of the same metadata.

Tracing a block symbolically takes a hundred operators; a deep model repeats it dozens of times. Blocks
that are built alike and called with like arguments are traced once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .opaque import PLAIN

if TYPE_CHECKING:
    from .leaf import Structure


def call_key(module: nn.Module, arguments: Structure, operands: tuple[Any, ...]) -> Any:
    """A key equal for like calls, or None where likeness cannot be told."""
    constants: list[Any] = []
    for constant in arguments.constants:
        if not isinstance(constant, PLAIN) and type(constant).__name__ != "Slot":
            return None
        constants.append((type(constant), constant))
    described = tuple(_describe(o) for o in operands)
    return (_build(module), arguments.spec, tuple(constants), described)


def _describe(operand: Any) -> Any:
    if isinstance(operand, torch.Tensor):
        sizes = tuple(_expression(s) for s in (*operand.shape, *operand.stride()))
        return (operand.dtype, operand.device, operand.dim(), sizes)
    return _expression(operand)


def _expression(size: Any) -> Any:
    return size.node.expr if isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)) else size


def _build(module: nn.Module) -> tuple[Any, ...]:
    """How a module is built: classes, parameter shapes and plain settings, all the way down."""
    return tuple(
        (
            name,
            type(part),
            tuple((n, p.shape, p.dtype, p.device) for n, p in part._parameters.items() if p is not None),
            tuple((n, b.shape, b.dtype, b.device) for n, b in part._buffers.items() if b is not None),
            tuple((n, _setting(v)) for n, v in part.__dict__.items() if not n.startswith("_")),
        )
        for name, part in module.named_modules()
    )


def _setting(value: Any) -> Any:
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, torch.Tensor):
        return (value.shape, value.dtype, value.device)
    if isinstance(value, (tuple, list)):
        return tuple(_setting(v) for v in value)
    if isinstance(value, dict):
        return tuple((k, _setting(v)) for k, v in value.items())
    plain = {n: v for n, v in getattr(value, "__dict__", {}).items() if isinstance(v, PLAIN)}
    return (type(value), tuple(plain.items()))
