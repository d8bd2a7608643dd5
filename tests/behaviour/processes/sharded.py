"""Two ranks with samples of their own and sharded parameters, replicas, or groups that are given."""

from __future__ import annotations

import sys
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import fxcache
from fxcache.errors import CaptureError, ExportError, FxcacheError, TooManyBlocksError
from tests.behaviour.processes.models import (
    cached,
    diffs,
    farthest,
    flux,
    flux_call,
    hits,
    run,
    wan,
    wan_call,
)
from tests.behaviour.processes.worker import by_name, gathered, main

NEVER, ALWAYS = 1e-9, 9.0


def shard(model: nn.Module, root: bool = True, first: int = 0, **options: Any) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for name in ("transformer_blocks", "single_transformer_blocks", "blocks"):
        for block in [*getattr(model, name, ())][first:]:
            fully_shard(block, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options) if root else model


def sharded_blocks() -> Any:
    """Shards first, `transform` then; the model itself stays what it was."""
    model = shard(flux(), root=False)
    plain = run(flux(), flux_call())
    before = run(model, flux_call(), steps=2)
    together = cached(model, NEVER)
    never = farthest(run(together, flux_call()), plain)
    together.configure(residual_diff_threshold=ALWAYS)
    run(together, flux_call())
    after = run(model, flux_call(), steps=2)
    found = {"off": never, "original off": farthest(after, before), "hits": hits(together)}
    try:
        fxcache.export(together, "unused.pt2", {})
    except ExportError as error:
        found["export"] = str(error)
    return {**found, "said": str(together.stats())}


def own_prompts() -> Any:
    """Root and blocks sharded, another prompt on each rank, at a threshold where the two would part."""
    start = flux_call(prompt=dist.get_rank())
    plain = flux()
    alone = cached(plain, NEVER)
    run(alone, start)
    mine, its = gathered(diffs(alone))
    step = max(mine, key=lambda s: abs(mine[s] - its[s]))
    threshold = (mine[step] + its[step]) / 2
    alone.configure(residual_diff_threshold=threshold)
    run(alone, start)
    model = shard(flux())
    together = cached(model, threshold)
    sample, call = start
    computed_off = 0.0
    with torch.no_grad():
        for i in range(8):
            inputs = call(sample, 1 - i / 8)
            (change,) = together(**inputs, return_dict=False)
            if not next(iter(together.stats().contexts.values())).hits[i]:
                (expected,) = plain(**inputs, return_dict=False)
                computed_off = max(computed_off, float((change - expected).abs().max()))
            sample = sample - change / 8
    after = run(model, start, steps=1)
    return {
        "hits": hits(together),
        "hits alone": hits(alone),
        "off where computed": computed_off,
        "original off": farthest(after, run(plain, start, steps=1)),
        "said": str(together.stats()),
    }


def root_parameters() -> Any:
    """Wan's glue has parameters of the root: captured beforehand, by a call, and before it is sharded."""
    start = wan_call(prompt=dist.get_rank())
    plain = run(wan(), start)
    sample, call = start
    found: dict[str, Any] = {}
    example = {**call(sample, 1.0), "return_dict": False}
    for name, options in (("prepared", {"example_inputs": example}), ("called", {})):
        together = cached(shard(wan()), NEVER, **options)
        found[name] = farthest(run(together, start), plain)
        found[f"{name} graphs"] = len(together.specializations())
    late = cached(wan(), NEVER)
    run(late, start, steps=2)
    shard(late.original)
    found["sharded later"] = farthest(run(late, start), plain)
    late.configure(residual_diff_threshold=ALWAYS)
    run(late, start)
    found["hits"] = hits(late)
    found["said"] = str(late.stats())
    return found


def signals_of_the_root() -> Any:
    """A vote of policies that look at the output, or into the first block, where that is of the root."""
    found: dict[str, Any] = {}
    whole = {"fn_compute_blocks": 0, "level": "output"}
    start = wan_call(prompt=dist.get_rank())
    try:
        run(cached(shard(wan()), NEVER, changes={**whole, "policy": fxcache.TeaCache()}), start, steps=1)
    except FxcacheError as error:
        found["first block sharded"] = str(error)
    for name, policy in (("teacache", fxcache.TeaCache()), ("easycache", fxcache.EasyCache())):
        changes = {**whole, "policy": policy}
        alone = cached(wan(), NEVER, changes=changes)
        expected = run(alone, start)
        model = shard(wan(), first=1)
        together = cached(model, NEVER, changes=changes)
        off = farthest(run(together, start), expected)
        seen = sorted(v for one in gathered(list(diffs(alone).values())) for v in one)
        for one in (alone, together):
            one.configure(residual_diff_threshold=2.5 * seen[len(seen) // 2])  # changes add up over steps
            run(one, start)
        original = farthest(run(model, start, steps=1), run(wan(), start, steps=1))
        found[name] = {
            "off": off,
            "original off": original,
            "hits": hits(together),
            "hits alone": hits(alone),
        }
    return found


def flattened_parameters() -> Any:
    """FSDP1 is refused; the model runs as before."""
    model = FullyShardedDataParallel(flux(), device_id=torch.device("cpu"))
    start = flux_call(prompt=dist.get_rank())
    before = run(model, start, steps=1)
    found: dict[str, Any] = {"plain off": farthest(before, run(flux(), start, steps=1))}
    try:
        run(cached(model, ALWAYS), start, steps=1)
    except FxcacheError as error:
        found["raised"] = [type(error).__name__, str(error)]
    found["off"] = farthest(run(model, start, steps=1), before)
    return found


def refused_and_whole() -> Any:
    """What is refused, or fails, leaves the model as it was."""
    found: dict[str, Any] = {}
    start = flux_call()
    cast = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    for name, model, config, expected in (
        ("casts", shard(flux(), mp_policy=cast), "F1B0_W2M0MC2_T0O1_R9", CaptureError),
        ("blocks", shard(flux()), "F9B0_W2M0MC2_T0O1_R9", TooManyBlocksError),
        ("unreadable", shard(_reading(flux())), "F1B0_W2M0MC2_T0O1_R9", CaptureError),
    ):
        before = run(model, start, steps=1)
        try:
            run(fxcache.transform(model, config), start, steps=1)
            found[name] = None
        except expected as error:
            found[name] = str(error)
        found[f"{name} off"] = farthest(run(model, start, steps=1), before)
    plain = run(shard(_reading(flux())), start)
    uncached = fxcache.transform(
        shard(_reading(flux())), "F1B0_W2M0MC2_T0O1_R9", on_unsupported="passthrough"
    )
    found["passthrough off"] = farthest(run(uncached, start), plain)
    return found


def _reading(model: nn.Module) -> nn.Module:
    """A model whose glue reads a value in a way that no symbol can stand for."""
    forward = model.forward

    def reading(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        assert hidden_states.numpy().size
        return forward(hidden_states, *args, **kwargs)

    model.forward = reading  # type: ignore[method-assign]
    return model


def tensors_in_parts() -> Any:
    """Tensor parallelism by diffusers, attention and all: found, and as in one process."""
    from diffusers import TensorParallelConfig  # since 0.42

    alone = cached(flux(), ALWAYS)
    expected = run(alone, flux_call(), steps=4)
    model: Any = flux()
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tp",))
    model.enable_parallelism(config=TensorParallelConfig(mesh=mesh))
    plain = run(model, flux_call(), steps=4)
    together = cached(model, NEVER)
    found: dict[str, Any] = {"never off": farthest(run(together, flux_call(), steps=4), plain)}
    together.configure(residual_diff_threshold=ALWAYS)
    found["off"] = farthest(run(together, flux_call(), steps=4), expected)
    found["original off"] = farthest(run(model, flux_call(), steps=4)[:1], plain[:1])
    return {**found, "hits": hits(together), "hits of one": hits(alone), "said": str(together.stats())}


def feed_forwards_in_parts() -> Any:
    """Tensor parallelism by `parallelize_module`: found, and as in one process."""
    alone = cached(flux(), 0.3)
    expected = run(alone, flux_call())

    def parallel(model: Any) -> Any:
        mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("tp",))
        plan = {"ff.net.0.proj": ColwiseParallel(), "ff.net.2": RowwiseParallel()}
        for block in model.transformer_blocks:
            parallelize_module(block, mesh, plan)
        return model

    found: dict[str, Any] = {}
    late = cached(flux(), 0.3)
    run(late, flux_call(), steps=1)
    parallel(late.original)
    for name, model in (("early", cached(parallel(flux()), 0.3)), ("late", late)):
        found[f"{name} off"] = farthest(run(model, flux_call()), expected)
        found[f"{name} hits"] = hits(model)
        found[f"{name} said"] = str(model.stats())
    return {**found, "hits of one": hits(alone)}


def replicas() -> Any:
    """DDP around a cached model, and a cached model around DDP."""
    start = flux_call(prompt=dist.get_rank())
    alone = cached(flux(), ALWAYS)
    expected = run(alone, start)
    around = DistributedDataParallel(cached(flux(), ALWAYS))
    found: dict[str, Any] = {"around off": farthest(run(around, start), expected)}
    model = DistributedDataParallel(flux())
    inside = cached(model, ALWAYS)
    try:
        found["inside off"] = farthest(run(inside, start), expected)
        found["inside hits"] = hits(inside)
    except FxcacheError as error:
        found["inside"] = f"{type(error).__name__}: {error}"
    found["original off"] = farthest(run(model, start, steps=1), run(flux(), start, steps=1))
    return {**found, "hits": hits(alone), "said": str(inside.stats())}


SCENARIOS = by_name(
    sharded_blocks,
    own_prompts,
    root_parameters,
    refused_and_whole,
    signals_of_the_root,
    flattened_parameters,
    tensors_in_parts,
    feed_forwards_in_parts,
    replicas,
)

if __name__ == "__main__":
    main(SCENARIOS, sys.argv[1], sys.argv[2:])
