"""Sizes that are symbols, and the environment that knows of them.

`ShapeEnv` is in no documented module; the attributes that are read elsewhere are those that
tests/test_torch_private.py names.
"""

from __future__ import annotations

import functools
from typing import Any

import sympy
import torch

# ruff: isort: off
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    StatelessSymbolicContext,
)  # which sizes are symbols
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode  # a decision depends on a value
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch._dynamo.source import ConstantSource  # a symbol is named by where it comes from
from torch.utils._sympy.printers import PythonPrinter  # a size's expression as Python
# ruff: isort: on

# Whether tensors whose sizes depend on values are copied without asking whether these are 1: since 2.12.
COPIES_UNKNOWN_SIZES = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 12)


def backed_symbols(env: ShapeEnv) -> frozenset[sympy.Symbol]:
    """The symbols of sizes that inputs have, not those of values that are not known."""
    return frozenset(env.backed_var_to_val)


def forget_environments() -> None:
    """Empty the function caches of `ShapeEnv`'s methods, one of them without a limit.

    They hold every environment, and with ours the inputs of the call that was captured. What is asked again
    is worked out again.
    """
    for value in vars(ShapeEnv).values():
        if isinstance(value, functools._lru_cache_wrapper):
            value.cache_clear()


def size_facts(env: ShapeEnv) -> tuple[Any, ...]:
    """All by which `env` decides about sizes, by values alone: equal facts decide alike.

    No public attribute of an environment says it whole.
    """
    ranges = ((symbol, r.lower, r.upper) for symbol, r in env.var_to_range.items())
    asserted = (a.expr for some in env.deferred_runtime_asserts.values() for a in some)
    return (
        env.settings,
        frozenset(env.backed_var_to_val.items()),
        frozenset(env.var_to_hint_override.items()),
        frozenset(ranges),
        frozenset(env.replacements.items()),
        frozenset(env.divisible),
        frozenset(env.size_like),
        frozenset((guard.expr, guard.size_oblivious) for guard in env.guards),
        frozenset(asserted),
    )
