"""When two calls of repeated blocks surely give results of the same metadata.

Tracing a block symbolically takes a hundred operators; a deep model repeats it dozens of times. Blocks
that are built alike and called with like arguments are traced once.
"""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn

from ..environment.leaf_hooks import HOOKS
from ..environment.opaque_objects import PLAIN
from ..environment.reachable_state import TORCHS_OWN
from ..environment.structure import Fields, Slot, Structure
from .operator_schemas import storage_of


def call_key(module: nn.Module, arguments: Structure, operands: tuple[Any, ...]) -> Any:
    """A key equal for like calls, or None where likeness cannot be told."""
    constants = _constants(arguments)
    if constants is None:
        return None
    described = tuple(_describe(o) for o in operands)
    return (_build(module), constants, described, _sharing(operands))


def _constants(arguments: Structure) -> tuple[Any, ...] | None:
    found: list[Any] = [arguments.spec]
    for constant in arguments.constants:
        if isinstance(constant, Fields):
            inner = _constants(constant.content)
            if inner is None:
                return None
            found.append((constant.kind, inner))
        elif isinstance(constant, (*PLAIN, Slot)):
            found.append((type(constant), constant))
        else:
            return None
    return tuple(found)


def _sharing(operands: tuple[Any, ...]) -> tuple[Any, ...]:
    """Which operands share memory: a block that writes to one writes to the others."""
    memory = [storage_of(o) if isinstance(o, torch.Tensor) else None for o in operands]
    if len({m for m in memory if m is not None}) == sum(m is not None for m in memory):
        return ()
    first = {m: i for i, m in reversed(list(enumerate(memory)))}
    return tuple(
        (first[m], _expression(o.storage_offset())) for m, o in zip(memory, operands, strict=True) if m
    )


def _describe(operand: Any) -> Any:
    if isinstance(operand, torch.Tensor):
        sizes = tuple(_expression(s) for s in (*operand.shape, *operand.stride()))
        return (operand.dtype, operand.device, operand.dim(), sizes)
    return _expression(operand)


def _expression(size: Any) -> Any:
    return size.node.expr if isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool)) else size


def _build(module: nn.Module) -> tuple[Any, ...]:
    """How a module is built: classes, parameter shapes, plain settings and hooks, all the way down."""
    return tuple(
        (
            name,
            type(part),
            tuple((n, p.shape, p.dtype, p.device) for n, p in part._parameters.items() if p is not None),
            tuple((n, b.shape, b.dtype, b.device) for n, b in part._buffers.items() if b is not None),
            tuple((n, _setting(v)) for n, v in part.__dict__.items() if n not in TORCHS_OWN),
            tuple(tuple(map(_setting, getattr(part, hooks).values())) for hooks in HOOKS),
        )
        for name, part in module.named_modules()
    )


def _setting(value: Any) -> Any:
    if isinstance(value, PLAIN):
        return (type(value), value)
    if isinstance(value, FunctionType):
        return value
    if isinstance(value, MethodType):
        return value.__func__
    if isinstance(value, torch.Tensor):
        return (value.shape, value.dtype, value.device)
    if isinstance(value, (tuple, list)):
        return tuple(_setting(v) for v in value)
    if isinstance(value, dict):
        return tuple((k, _setting(v)) for k, v in value.items())
    plain = {n: v for n, v in getattr(value, "__dict__", {}).items() if isinstance(v, PLAIN)}
    return (type(value), tuple(plain.items()))
