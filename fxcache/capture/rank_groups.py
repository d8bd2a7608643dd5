"""Which processes must decide together: found in how a model is parallelized, or given.

* diffusers' context parallelism keeps its mesh in the model's `_parallel_config`;
* parameters that are `DTensor`s in shards are tensor parallelism;
* FSDP2 gathers parameters: ranks with samples of their own, but collectives in common.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch import nn

from ..errors import ConfigError
from ..ir.ranks import Agree, RankGroup
from ..torch_private import fsdp_groups

AUTO, GIVEN = "auto", "given"


def several_processes() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank_groups(model: nn.Module, given: Any = AUTO, agree: Agree = "parts") -> tuple[RankGroup, ...]:
    """The groups of ranks that must take each decision of `model` together, those of parts first.

    Args:
        given: a process group or a `DeviceMesh`, all of whose dimensions count; None for none; "auto" to
            look at the model.
        agree: what the ranks of a given group have: "parts" of one sample, or samples of their own ("each").

    Raises:
        ConfigError: `given` is none of these, or there are no processes.
    """
    if given is None or (isinstance(given, str) and given == AUTO and not several_processes()):
        return ()
    if not isinstance(given, str):
        found = [(group, agree, GIVEN) for group in _groups_of(given)]
    elif given == AUTO:
        # FSDP's parameters are tensors in shards, too, when they are not gathered.
        found = [*_context_parallel(model), *_fully_sharded(model), *_sharded_tensors(model)]
    else:
        raise _unfit(given)
    unique: dict[tuple[int, ...], RankGroup] = {}  # a mesh and FSDP may have groups of their own for the same
    for group, how, why in found:
        described = _described(group, how, why)
        unique.setdefault(described.ranks, described)
    # Groups that cross are gathered one after the other, so their order must be the same on all ranks: that
    # in which they are found is, while their ranks and names are not.
    groups = sorted(unique.values(), key=lambda g: g.agree != "parts")
    return tuple(group for group in groups if group.size > 1)


def parallelism(model: nn.Module) -> tuple[object, ...]:
    """What tells quickly that `model` itself was parallelized since; its parts' hooks are watched anyway."""
    return type(model), model.__dict__.get("_parallel_config")


def _described(group: Any, agree: Agree, why: str) -> RankGroup:
    ranks = tuple(dist.get_process_group_ranks(group))
    return RankGroup(group.group_name, ranks, agree, why, given=why == GIVEN, handle=group)


def _groups_of(given: Any) -> list[Any]:
    if not dist.is_available():
        raise _unfit(given)
    if isinstance(given, dist.device_mesh.DeviceMesh):
        return [given.get_group(dimension) for dimension in range(given.ndim)]
    if not isinstance(given, dist.ProcessGroup):
        raise _unfit(given)
    return [given]


def _unfit(given: Any) -> ConfigError:
    need = 'it must be "auto", None, a process group of torch.distributed or a DeviceMesh'
    return ConfigError("process_group", given, need, of="fxcache.transform()")


def _context_parallel(model: nn.Module) -> Iterator[tuple[Any, Agree, str]]:
    for module in model.modules():  # a wrapper (DDP) may hold what diffusers parallelized
        config = module.__dict__.get("_parallel_config")
        mesh = getattr(getattr(config, "context_parallel_config", None), "_flattened_mesh", None)
        if mesh is not None:
            yield mesh.get_group(), "parts", "context parallelism"


def _sharded_tensors(model: nn.Module) -> Iterator[tuple[Any, Agree, str]]:
    from torch.distributed.tensor import DTensor, Shard  # a second to import, for those who have several

    for parameter in model.parameters():
        if isinstance(parameter, DTensor):
            for dimension, placement in enumerate(parameter.placements):
                if isinstance(placement, Shard):
                    yield parameter.device_mesh.get_group(dimension), "parts", "tensor parallelism"


def _fully_sharded(model: nn.Module) -> Iterator[tuple[Any, Agree, str]]:
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            for group in fsdp_groups(module):  # type: ignore[arg-type]
                yield group, "each", "FSDP"
