"""What functions that passes insert returned on fake tensors, remembered by what describes their operands.

Every graph gets the same few functions, and to run them on fake tensors takes most of the time of the passes.
What is remembered holds for the whole process: it is told by values alone, so that it keeps no tensor and no
capture alive.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, TypeAlias

import sympy
import torch

from ..environment.ambient_settings import ambient_key
from ..environment.opaque_objects import PLAIN
from ..torch_private import DeviceContext, FakeTensor, function_modes, has_dispatch_modes, pytree, storage_id
from .state import Size

OURS = (
    "fxcache.ops.",
    "fxcache.forecasters.",
    "fxcache.policies.",
)  # whose functions depend on their operands alone
Key: TypeAlias = tuple[Any, ...]


@dataclass(frozen=True)
class Fresh:
    """A tensor that a function made, as `torch.empty_strided` makes one like it."""

    sizes: tuple[Size, ...]
    strides: tuple[Size, ...]
    dtype: torch.dtype
    device: torch.device


@dataclass(frozen=True)
class Result:
    """What a function returned: its leaves, each a `Fresh` or a constant, and how they hang together."""

    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec


class FakeResults:
    """Results by key, at most `limit` of them, with a sixteenth as many facts: what is full begins anew.

    Example:
        >>> import torch
        >>> from fxcache.ir.fake_results import FakeResults, Fresh, Result
        >>> from torch.utils._pytree import tree_flatten
        >>> results = FakeResults(limit=2)
        >>> made = Fresh((2, 3), (3, 1), torch.float32, torch.device("cpu"))
        >>> for number in range(5):
        ...     results.remember(("function", number), Result((made,), tree_flatten(made)[1]))
        >>> results.recall(("function", 4)).leaves[0].sizes, results.recall(("function", 3)), len(results)
        ((2, 3), None, 1)
    """

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._results: dict[Key, Result] = {}
        self._known: dict[Key, object] = {}

    def recall(self, key: Key) -> Result | None:
        return self._results.get(key)

    def remember(self, key: Key, result: Result) -> None:
        if len(self._results) >= self._limit:
            self._results.clear()
        self._results[key] = result

    def known(self, facts: Key) -> object:
        """What stands for `facts` in keys: to compare them takes longer than all the rest."""
        if len(self._known) >= self._limit // 16:
            self._known.clear()
        return self._known.setdefault(facts, object())

    def clear(self) -> None:
        """Forget all."""
        self._results.clear()
        self._known.clear()

    def __len__(self) -> int:
        return len(self._results)


def call_key(
    function: Callable[..., Any], operands: Any, known: object, symbols: frozenset[Any]
) -> Key | None:
    """A key equal for calls that return alike; None where likeness cannot be told.

    operands: nested as they are given. known: stands for the `size_facts`. symbols: those that they
    are about.
    """
    named = _named(function)
    if named is None or has_dispatch_modes():
        return None
    if not all(isinstance(mode, DeviceContext) for mode in function_modes()):
        return None
    leaves, spec = pytree.tree_flatten(operands)
    described = tuple(key for key in map(_described, leaves) if key is not None)
    if len(described) < len(leaves):
        return None
    sizes = [size for leaf in described for size in leaf if isinstance(size, sympy.Expr)]
    free = frozenset().union(*(size.free_symbols for size in sizes))
    if not free <= symbols:
        return None
    around = (ambient_key(), torch.compiler.is_compiling())
    return (named, described, spec, around, known if free else None)


def _named(function: Callable[..., Any]) -> Any:
    """`function` as a part of a key; None where it may depend on more than its operands."""
    if isinstance(function, FunctionType):
        return function if _is_ours(function) and function.__closure__ is None else None
    if isinstance(function, MethodType):
        owner, inner = function.__self__, function.__func__
        # By value: equal forecasters and policies say the same.
        return (inner, type(owner), owner) if _is_ours(type(owner)) and _is_ours(inner) else None
    if isinstance(function, BuiltinFunctionType) and function is getattr(torch, function.__name__, None):
        return function
    return None


def _is_ours(what: Any) -> bool:
    return str(getattr(what, "__module__", None)).startswith(OURS)


def _described(operand: Any) -> Key | None:
    if isinstance(operand, torch.Tensor):
        return _tensor(operand)
    if isinstance(operand, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return (type(operand), operand.node.expr)
    return (type(operand), operand) if isinstance(operand, (*PLAIN, sympy.Expr)) else None


def _tensor(tensor: torch.Tensor) -> Key | None:
    if type(tensor) is not FakeTensor or tensor.layout is not torch.strided or tensor.constant is not None:
        return None
    flags = (tensor.requires_grad, tensor.is_inference(), tensor.is_conj(), tensor.is_neg())
    sizes = map(_expression, (*tensor.shape, *tensor.stride(), tensor.storage_offset()))
    return (FakeTensor, tensor.dtype, tensor.device, flags, tensor.dim(), *sizes)


def result_of(returned: Any, operands: Any, mode: Any, symbols: frozenset[Any]) -> Result | None:
    """`returned`, to be remembered; None where another of the kind cannot be made of nothing.

    That is where it is, or shares memory with, one of the operands, or has sizes that depend on data.
    """
    leaves, spec = pytree.tree_flatten(returned)
    taken = {storage_id(t) for t in pytree.tree_leaves(operands) if isinstance(t, torch.Tensor)}
    made: list[Any] = []
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            fresh = _fresh(leaf, mode, symbols)
            if fresh is None or storage_id(leaf) in taken:
                return None
            taken.add(storage_id(leaf))
            leaf = fresh
        elif not isinstance(leaf, PLAIN):
            return None
        made.append(leaf)
    return Result(tuple(made), spec)


def _fresh(tensor: torch.Tensor, mode: Any, symbols: frozenset[Any]) -> Fresh | None:
    described = _tensor(tensor)
    if described is None or tensor.fake_mode is not mode or any(described[3]) or described[-1] != 0:  # type: ignore[attr-defined]
        return None
    sizes = described[5:-1]
    if any(not size.free_symbols <= symbols for size in sizes if isinstance(size, sympy.Expr)):
        return None
    return Fresh(sizes[: tensor.dim()], sizes[tensor.dim() :], tensor.dtype, tensor.device)


def _expression(size: Any) -> Size:
    if not isinstance(size, torch.SymInt):
        return int(size)
    expression: sympy.Expr = size.node.expr
    return int(expression) if expression.is_Integer else expression


RESULTS = FakeResults()  # of the process
