"""How the hosts of a group's ranks talk: by collectives on the CPU, past the devices' queues."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from ..ir.ranks import RankGroup


def host_group(group: RankGroup) -> Any:
    """A process group of the same ranks whose collectives take tensors on the CPU.

    That is the group's own where it has a backend for the CPU (gloo), else a new one: NCCL's would wait for
    what the device still computes. All ranks of the group must ask together, and for the same groups in the
    same order; the others need not.
    """
    devices = [pair.split(":")[0] for pair in dist.get_backend_config(group.handle).split(",")]
    if "cpu" in devices:
        return group.handle
    return dist.new_group(list(group.ranks), backend="gloo", use_local_synchronization=True)
