"""Four ranks: context parallelism within, data parallelism or tensor parallelism or FSDP2 across."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from diffusers import ContextParallelConfig
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from tests.behaviour.processes.models import cached, diffs, farthest, flux, flux_call, hits, run
from tests.behaviour.processes.worker import by_name, main

THRESHOLD = 0.3  # at which the two prompts have other hits


def pairs(model: Any, across: Callable[[nn.Module, Any], None]) -> Any:
    """Two pairs of ranks, each of which splits its samples; `across` is done with the other dimension."""
    mesh = init_device_mesh("cpu", (2, 1, 2), mesh_dim_names=("across", "ring", "ulysses"))
    across(model, mesh["across"])
    model.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2, mesh=mesh))
    return model


def compared(together: Any, prompt: int) -> dict[str, Any]:
    start = flux_call(prompt=prompt)
    alone = cached(flux(), THRESHOLD)
    expected = run(alone, start)
    found = run(together, start)
    return {
        "prompt": prompt,
        "hits": hits(together),
        "hits of one": hits(alone),
        "off": farthest(found, expected),
        "diffs": list(diffs(together).values()),
        "said": str(together.stats()),
    }


def pairs_with_prompts_of_their_own() -> Any:
    together = cached(pairs(flux(), lambda model, mesh: None), THRESHOLD)
    return compared(together, prompt=dist.get_rank() // 2)


def tensors_in_parts() -> Any:
    def across(model: Any, mesh: Any) -> None:
        plan = {"ff.net.0.proj": ColwiseParallel(), "ff.net.2": RowwiseParallel()}
        for block in model.transformer_blocks:
            parallelize_module(block, mesh, plan)

    return compared(cached(pairs(flux(), across), THRESHOLD), prompt=0)


def shards_of_pairs() -> Any:
    def across(model: Any, mesh: Any) -> None:
        for block in (*model.transformer_blocks, *model.single_transformer_blocks):
            fully_shard(block, mesh=mesh)

    return compared(cached(pairs(flux(), across), THRESHOLD), prompt=dist.get_rank() // 2)


SCENARIOS = by_name(pairs_with_prompts_of_their_own, tensors_in_parts, shards_of_pairs)

if __name__ == "__main__":
    main(SCENARIOS, sys.argv[1], sys.argv[2:])
