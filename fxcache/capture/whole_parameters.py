"""Trace a model that FSDP2 shards as if it were whole, and leave it as it was.

FSDP gathers parameters in hooks around modules. Under a trace these would gather fakes, and FSDP would keep
them. So for the trace its hooks are off, and parameters in shards stand there whole, as fake tensors. The
graph calls the original modules, hooks and all.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..environment.leaf_hooks import HOOKS
from ..environment.refused_trace import RefusedTrace
from ..torch_private import FakeTensorMode, fsdp_casts

FSDP = "torch.distributed.fsdp"


def fully_sharded(model: nn.Module) -> list[nn.Module]:
    """The modules of `model` that FSDP2 shards."""
    fsdp: Any = sys.modules.get(FSDP)  # where it was not imported nothing is
    return [] if fsdp is None else [m for m in model.modules() if isinstance(m, fsdp.FSDPModule)]


def class_of(model: nn.Module) -> type[nn.Module]:
    """The class of a model; FSDP2 makes one of its own, a subclass."""
    fsdp: Any = sys.modules.get(FSDP)
    kinds = type(model).__mro__
    if fsdp is None or fsdp.FSDPModule not in kinds:
        return kinds[0]
    return kinds[kinds.index(fsdp.FSDPModule) + 1]


def refuse_wrapped(model: nn.Module) -> None:
    """Raise `RefusedTrace` where parameters are in shards in a way that cannot be traced around."""
    fsdp: Any = sys.modules.get(FSDP)
    for name, module in model.named_modules():
        what = f"'{name or type(model).__name__}' is sharded by"
        if fsdp is not None and isinstance(module, fsdp.FullyShardedDataParallel):
            raise RefusedTrace(f"{what} FullyShardedDataParallel, which flattens it; use fully_shard (FSDP2)")
    for module in fully_sharded(model):
        if fsdp_casts(module):
            raise RefusedTrace(
                "FSDP casts its parameters (MixedPrecisionPolicy); load it in the dtype that it is to run in"
            )
        for name, parameter in module.named_parameters():
            placements = getattr(parameter, "placements", ())  # of one that is in shards now
            if sum(placement.is_shard() for placement in placements) > 1:
                raise RefusedTrace(f"'{name}' is in shards of two kinds, FSDP's and tensor parallelism's")


@contextlib.contextmanager
def whole_parameters(model: nn.Module, mode: FakeTensorMode) -> Iterator[None]:
    """Within the block no hook of FSDP2 runs, and what it shards is whole: fake tensors of `mode`."""
    modules = fully_sharded(model)
    if not modules:
        yield
        return
    with contextlib.ExitStack() as stack:
        for module in modules:
            for name in HOOKS:
                stack.enter_context(_without_fsdps(getattr(module, name)))
        for part in dict.fromkeys(p for module in modules for p in module.modules()):
            for name, parameter in part._parameters.items():
                if parameter is not None and _is_sharded(parameter):
                    stack.callback(part._parameters.__setitem__, name, parameter)
                    part._parameters[name] = _whole(parameter, mode)
        yield


@contextlib.contextmanager
def _without_fsdps(table: dict[int, Any]) -> Iterator[None]:
    hooks = dict(table)
    for number, hook in hooks.items():
        if type(getattr(hook, "__self__", None)).__module__.startswith(FSDP):
            del table[number]
    try:
        yield
    finally:
        table.clear()
        table.update(hooks)


def _is_sharded(parameter: nn.Parameter) -> bool:
    tensor: Any = sys.modules.get("torch.distributed.tensor")
    return tensor is not None and isinstance(parameter, tensor.DTensor)


def _whole(parameter: nn.Parameter, mode: FakeTensorMode) -> nn.Parameter:
    with mode:
        tensor = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    return nn.Parameter(tensor, requires_grad=parameter.requires_grad)
