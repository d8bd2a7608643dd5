"""Compiled steps: each mode against the least that a cached step must do, and against plain compiled.

    python -m bench.compile [--rounds 100] [--only NAME ...] [--schedule] [--depth] [--package]

One process, interleaved, one thread, ratios of medians of processor time. cache-dit and diffusers'
FirstBlockCache, compiled, take part where they are installed; `--only "minimum compiled" "hit, fused"` leaves
the others out of the process, and of the processor's caches. `--schedule` adds a model that is bound by
its FLOPs, `--depth` cold compile times of a shallow and a deep model, `--package` an exported package.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import fxcache
from bench.overhead import ALWAYS, flux, inputs, interleaved, network, schedule
from fxcache import CacheConfig, CachedTransformer
from fxcache.backends.inductor import Mode

# Every step is compared and none is like the last: nothing is cached, though it might have been.
NEVER = CacheConfig(fn_compute_blocks=1, max_warmup_steps=0, residual_diff_threshold=1e-12)
MANY = 100_000  # steps: more than any run here
Step = Callable[..., Any]


class Minimum(nn.Module):
    """The least that a cached step with Fn = 1 must do: embed, one block, signal, head.

    The block's text stream is given, too: until the signal is known, the step may have to go on with it.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        previous: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        m = self.model
        embedded = m.x_embedder(hidden_states)
        temb = m.time_text_embed(timestep * 1000, pooled_projections)
        text, hidden_states = m.transformer_blocks[0](
            hidden_states=embedded,
            encoder_hidden_states=m.context_embedder(encoder_hidden_states),
            temb=temb,
            image_rotary_emb=m.pos_embed(torch.cat((txt_ids, img_ids))),
            joint_attention_kwargs=None,
        )
        residual = hidden_states - embedded
        diff = (residual - previous).abs().mean() / previous.abs().mean()
        return m.proj_out(m.norm_out(hidden_states, temb)), text, diff


def first_call(model: Step, arguments: dict[str, Any]) -> tuple[float, int, int]:
    """Seconds of a first call and a second (a miss and a hit), graphs made, graph breaks."""
    counters.clear()
    begin = time.perf_counter()
    with torch.no_grad():
        for t in (1.0, 0.99):
            model(**arguments, timestep=torch.full((1,), t))
    breaks = sum(counters["graph_break"].values())
    return time.perf_counter() - begin, counters["stats"]["unique_graphs"], breaks


def cold(make: Callable[[nn.Module], Step], blocks: tuple[int, int], arguments: dict[str, Any]) -> float:
    """Seconds of the first miss and hit of what `make` makes of a model, with an empty compiler cache."""
    torch._dynamo.reset()
    model = network(128, *blocks)
    with tempfile.TemporaryDirectory() as folder, torch._inductor.utils.fresh_inductor_cache(dir=folder):
        return first_call(make(model), arguments)[0]


def cold_contenders() -> dict[str, Callable[[nn.Module], Step]]:
    """What is compiled cold, by name."""

    def cached(mode: Mode) -> Callable[[nn.Module], Step]:
        return lambda model: fxcache.compile(fxcache.transform(model, ALWAYS), mode=mode)

    found: dict[str, Callable[[nn.Module], Step]] = {
        "plain": lambda model: torch.compile(model, fullgraph=True),
        "staged": cached("staged"),
        "fused": cached("fused"),
        "single": cached("single"),
        "FirstBlockCache": first_block_cache,
    }
    if importlib.util.find_spec("cache_dit") is not None:
        found["cache-dit"] = cache_dit
    return found


def contenders(model: nn.Module, tokens: int, width: int) -> dict[str, Step]:
    """What is compared, by name; the minimum and the plain model are compiled like the rest."""
    always, never = fxcache.transform(model, ALWAYS), fxcache.transform(model, NEVER)
    least = torch.compile(Minimum(model), fullgraph=True)
    previous = torch.randn(1, tokens, width)
    found: dict[str, Step] = {
        "plain compiled": torch.compile(model, fullgraph=True),
        "minimum compiled": lambda **arguments: least(**arguments, previous=previous),
        "nothing cached, fused": fxcache.compile(never),
        "hit, fused": fxcache.compile(always),
        "hit, single": fxcache.compile(always, mode="single"),
        "hit, eager": always,
        "FirstBlockCache compiled": first_block_cache(copy.deepcopy(model)),
    }
    if importlib.util.find_spec("cache_dit") is not None:
        found["cache-dit compiled"] = cache_dit(copy.deepcopy(model))
    return found


def first_block_cache(model: Any, compiled: bool = True, **options: Any) -> Step:
    """diffusers' FirstBlockCache, which hits on every step but the first. options: of `torch.compile`."""
    from diffusers import FirstBlockCacheConfig

    model.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    if compiled:
        model.compile(**options)

    def step(**arguments: Any) -> Any:
        with model.cache_context("default"):
            return model(**arguments)

    return step


def cache_dit(model: Any, compiled: bool = True, **options: Any) -> Step:
    """cache-dit's DBCache with the same setting. options: of `torch.compile`."""
    import cache_dit

    cache_dit.enable_cache(
        model,
        cache_config=cache_dit.DBCacheConfig(
            Fn_compute_blocks=1,
            Bn_compute_blocks=0,
            max_warmup_steps=1,
            residual_diff_threshold=1e9,
            num_inference_steps=MANY,
        ),
    )
    if compiled:
        model.compile(**options)
    return model  # type: ignore[no-any-return]


def package_rows(model: nn.Module, arguments: dict[str, Any], rounds: int) -> None:
    """A package against the compiled module."""
    cached: CachedTransformer = fxcache.transform(model, ALWAYS)
    with tempfile.TemporaryDirectory() as folder:
        example = {**arguments, "timestep": torch.ones(1)}
        path = fxcache.export(cached, Path(folder) / "flux.pt2", example, dynamic=False)
        begin = time.perf_counter()
        package = fxcache.load(path)
        loading = time.perf_counter() - begin
        pair = {"module": fxcache.compile(cached), "package": package}
        found = interleaved(pair, arguments, rounds)
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        print(
            f"\npackage: loads in {loading:.2f} s, {path.stat().st_size / weights:.3f} x the weights; ",
            end="",
        )
        print(f"a cached step takes {found['package'] / found['module']:.2f} x that of the fused module")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these contenders only")
    parser.add_argument("--schedule", action="store_true", help="a model bound by its FLOPs")
    parser.add_argument("--depth", action="store_true", help="cold compile times by depth")
    parser.add_argument("--package", action="store_true", help="export and time a package")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, arguments = flux(128), inputs(49, 8)
    models = contenders(model, 49, 128)
    models = {name: m for name, m in models.items() if name in (options.only or models)}
    print("| FLUX 4+8 blocks, 128 wide | first miss and hit, s | graphs | breaks |")
    print("| --- | --- | --- | --- |")
    for name, contender in models.items():
        seconds, graphs, breaks = first_call(contender, arguments)
        print(f"| {name} | {seconds:.1f} | {graphs} | {breaks} |", flush=True)
    found = interleaved(models, arguments, options.rounds, warmup=20)
    print("\n| step | median, ms | against |\n| --- | --- | --- |")
    for name, seconds in found.items():
        whole = name in ("plain compiled", "nothing cached, fused")
        base = "plain compiled" if whole else "minimum compiled"
        ratio = f"{seconds / found[base]:.2f} x {base}" if base in found else ""
        print(f"| {name} | {seconds * 1e3:.3f} | {ratio} |")
    if options.schedule:
        wide, more = flux(512), inputs(256, 64)
        measured, ideal = schedule(wide, more, max(options.rounds // 30, 3), compiled=True)
        print(
            f"\n512 wide, 320 tokens, every fourth step computed, compiled: {measured:.2f}x, "
            f"FLOPs ideal {ideal:.2f}x, share {measured / ideal:.3f}"
        )
    if options.depth:
        print("\n| cold, s | 4+8 blocks | 19+38 blocks | ratio |\n| --- | --- | --- | --- |")
        for name, make in cold_contenders().items():
            shallow, deep = (cold(make, blocks, arguments) for blocks in ((4, 8), (19, 38)))
            print(f"| {name} | {shallow:.1f} | {deep:.1f} | {deep / shallow:.2f} |", flush=True)
    if options.package:
        package_rows(model, arguments, options.rounds)


if __name__ == "__main__":
    main()
