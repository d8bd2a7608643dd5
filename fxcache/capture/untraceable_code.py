"""What a trace does not see of a forward; refused by what its code names, and by what it calls."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Iterator
from types import CodeType
from typing import Any

import torch

from ..environment.executed_code import ExecutedCode
from ..environment.refused_trace import RefusedTrace
from ..torch_private import FakeTensor

# What sets a random generator; and what makes one, or keeps the global one aside.
_SEEDING = frozenset({"manual_seed", "manual_seed_all", "set_rng_state", "set_rng_state_all", "set_state"})
_MAKING = frozenset({"Generator", "fork_rng", "clone_state", "graphsafe_set_state"})
_TYPES = frozenset({"type", "__class__"})
# Call a Python function on each element, on the memory itself: on fake tensors that is no memory.
_BY_ELEMENT = frozenset({torch.Tensor.apply_, torch.Tensor.map_, torch.Tensor.map2_})
# What a thread runs to have another one work, or to wait for it.
OTHER_THREADS: frozenset[CodeType] = frozenset(
    function.__code__
    for function in (
        threading.Thread.start,
        threading.Condition.wait,
        concurrent.futures.ThreadPoolExecutor.submit,
        concurrent.futures.ProcessPoolExecutor.submit,
    )
)


def refuse_seeded(code: ExecutedCode, draws: bool) -> None:
    """Raise `RefusedTrace` where the code sets random generators, which a graph does not do again.

    draws: whether the forward takes random numbers.
    """
    found = code.attributes & _SEEDING
    if not found and draws:
        found = code.attributes & _MAKING
    if found:
        raise RefusedTrace(f"its Python code sets random generators itself ({', '.join(sorted(found))})")


@contextlib.contextmanager
def refuse_threads(code: ExecutedCode) -> Iterator[None]:
    """Raise `RefusedTrace` where the forward that runs within has another thread work for it."""
    try:
        yield
    finally:
        if code.met is not None:
            raise RefusedTrace(f"its forward runs a part of itself in another thread ({code.met.co_name})")


def refuse_types(code: ExecutedCode, symbolic: bool) -> None:
    """Raise `RefusedTrace` where the code may compare types that are others while it is traced.

    symbolic: sizes are symbols, so that not only tensors are of another type.
    """
    looked_at = {"Tensor", "int"} if symbolic else {"Tensor"}
    if any(names & _TYPES and names & looked_at for names in code.names()):
        raise RefusedTrace("its Python code looks at the type of tensors or numbers")


def refuse_unseen(func: Any, args: Any) -> None:
    """Raise `RefusedTrace` for a function of torch whose work a trace does not see."""
    if func in _BY_ELEMENT:
        raise RefusedTrace(f"its Python code runs on each element of a tensor ({func.__name__})")
    if func is torch.Tensor.__repr__ and isinstance(args[0], FakeTensor):
        raise RefusedTrace("its Python code writes a tensor as text")
