"""Context parallelism for commands: a team of processes draws one sample together, by Ulysses attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from .errors import PipelineError
from .sharing import Share
from .subject import EMBEDDED


@contextmanager
def teams(share: Share, device: str | None) -> Iterator[None]:
    """Within the block processes have collectives, where `share` has teams; each has a device of its own."""
    if share.team == 1:
        yield
        return
    own = share.device(device)
    if own.type != "cpu":
        torch.accelerator.set_device_index(own)
    dist.init_process_group(dist.get_default_backend_for_device(own))
    try:
        yield
    finally:
        dist.destroy_process_group()


def split(models: Mapping[str, nn.Module], share: Share, name: str) -> None:
    """Let each team split the sequences of these models among its processes. Does nothing without teams.

    Raises:
        PipelineError: diffusers cannot split one of them, or the embedded model, whose 49 tokens are odd.
    """
    if share.team == 1:
        return
    if name == EMBEDDED:
        raise PipelineError(
            name, f"its 49 tokens cannot be split among {share.team} processes; name a folder"
        )
    from diffusers import ContextParallelConfig

    kind = next(next(iter(models.values())).parameters()).device.type
    shape, names = (share.world, 1, share.team), ("data", "ring", "ulysses")
    mesh = init_device_mesh(kind, shape, mesh_dim_names=names)
    for path, model in models.items():
        try:
            config = ContextParallelConfig(ulysses_degree=share.team, mesh=mesh)
            model.enable_parallelism(config=config)  # type: ignore[operator]
        except (AttributeError, ValueError) as error:
            why = " ".join(str(error).split())
            raise PipelineError(name, f"diffusers cannot split its {path}: {why}") from error
