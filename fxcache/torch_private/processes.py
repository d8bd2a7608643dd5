"""What FSDP2 keeps to itself: which processes gather a module's parameters, and whether it casts them."""

from __future__ import annotations

from typing import Any

from torch import nn


def fsdp_groups(module: nn.Module) -> list[Any]:
    """The process groups over which FSDP2 shards the parameters of `module`, an `FSDPModule`.

    Known only to its state: while the parameters are gathered they are plain tensors.
    """
    state: Any = module._get_fsdp_state()  # type: ignore[operator]
    several = getattr(state, "_fsdp_param_groups", None)  # since torch 2.13; one before
    held = several if several is not None else [state._fsdp_param_group]
    meshes = [group.mesh_info for group in held if group is not None]
    # One that only replicates has none.
    return [mesh.shard_process_group for mesh in meshes if hasattr(mesh, "shard_process_group")]


def fsdp_casts(module: nn.Module) -> bool:
    """Whether FSDP2 casts parameters, inputs or outputs of `module`: its `MixedPrecisionPolicy`."""
    policy = module._get_fsdp_state()._mp_policy  # type: ignore[operator]
    return policy.param_dtype is not None or policy.output_dtype is not None
