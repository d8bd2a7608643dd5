"""Operators, the modes that see them, and what a kernel may call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

# ruff: isort: off
# Singletons without a public class, and the keys by which their kernels are found.
from torch._C import DispatchKey
from torch._ops import HigherOrderOperator, OperatorBase, OpOverload, OpOverloadPacket
from torch._higher_order_ops.effects import _get_effect as registered_effect  # the only record of these

# Modes: what sees every operator, and which modes the caller entered.
from torch.overrides import _get_current_function_mode_stack as function_modes
from torch.utils._device import DeviceContext  # what `with torch.device(...)` enters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._python_dispatch import _disable_current_modes as without_dispatch_modes
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack as dispatch_modes
# ruff: isort: on


def has_dispatch_modes() -> bool:
    """Whether any dispatch mode is entered: `dispatch_modes()`, at a tenth of the time."""
    return bool(torch._C._len_torch_dispatch_stack())


def has_function_modes() -> bool:
    """Whether any torch function mode is entered: `function_modes()`, at a tenth of the time."""
    return bool(torch._C._len_torch_function_stack())


def is_of_torch(mode: TorchDispatchMode) -> bool:
    """Whether `mode` is one of those that torch traces with."""
    return getattr(mode, "_mode_key", None) is not None


def below_autograd() -> AbstractContextManager[None]:
    """Operators called within are not recorded for gradients: for a kernel of the autograd key."""
    return torch._C._AutoDispatchBelowAutograd()  # type: ignore[no-any-return]


def without_torch_function() -> AbstractContextManager[None]:
    """Neither torch function modes nor the methods of subclasses see what is called within."""
    return torch._C.DisableTorchFunction()  # type: ignore[no-any-return]


def has_decomposition(func: OpOverload) -> bool:
    """Whether tracing would take another arithmetic for `func` than a call: its decomposition in Python.

    Operators that are made of others arrive whole where autograd is left out, as inference mode does.
    """
    key = DispatchKey.CompositeImplicitAutograd
    return key in func.py_kernels and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)


def composite_kernel(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a call of an operator that is made of others runs."""
    return func._op_dk(DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
