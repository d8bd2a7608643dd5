"""Compiled steps: each mode against the least that a cached step must do, and against plain compiled.

    python -m bench.compile [--rounds 100] [--depth] [--package]

One process, interleaved, one thread, ratios of medians. `--depth` adds cold compile times of a shallow
and a deep model; `--package` adds an exported package.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._dynamo.utils import counters

import fxcache
from bench.overhead import ALWAYS, NEVER, Minimum, flux, inputs, interleaved, network
from fxcache import CachedTransformer
from fxcache.backends.inductor import Mode


def first_call(model: nn.Module, arguments: dict[str, Any]) -> tuple[float, int, int]:
    """Seconds of a first call and a second (a miss and a hit), graphs made, graph breaks."""
    counters.clear()
    begin = time.perf_counter()
    with torch.no_grad():
        for t in (1.0, 0.99):
            model(**arguments, timestep=torch.full((1,), t))
    breaks = sum(counters["graph_break"].values())
    return time.perf_counter() - begin, counters["stats"]["unique_graphs"], breaks


def cold(model: nn.Module, arguments: dict[str, Any], mode: Mode) -> float:
    """Cold compile seconds of a mode."""
    torch._dynamo.reset()
    with tempfile.TemporaryDirectory() as folder, torch._inductor.utils.fresh_inductor_cache(dir=folder):
        return first_call(fxcache.compile(fxcache.transform(model, ALWAYS), mode=mode), arguments)[0]


def contenders(model: nn.Module) -> dict[str, nn.Module]:
    """What is compared, by name; the minimum and the plain model are compiled like the rest."""
    always, never = fxcache.transform(model, ALWAYS), fxcache.transform(model, NEVER)
    return {
        "plain compiled": torch.compile(model, fullgraph=True),
        "minimum compiled": torch.compile(Minimum(model), fullgraph=True),  # type: ignore[arg-type]
        "nothing cached, fused": fxcache.compile(never),
        "hit, fused": fxcache.compile(always),
        "hit, single": fxcache.compile(always, mode="single"),
        "hit, eager": always,
    }


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
    parser.add_argument("--depth", action="store_true", help="cold compile times by depth")
    parser.add_argument("--package", action="store_true", help="export and time a package")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, arguments = flux(128), inputs(49, 8)
    models = contenders(model)
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
        print(f"| {name} | {seconds * 1e3:.3f} | {seconds / found[base]:.2f} x {base} |")
    if options.depth:
        print("\n| cold, s | 4+8 blocks | 19+38 blocks | ratio |\n| --- | --- | --- | --- |")
        modes: tuple[Mode, ...] = ("staged", "fused")
        for mode in modes:
            shallow, deep = (cold(network(128, *n), arguments, mode) for n in ((4, 8), (19, 38)))
            print(f"| {mode} | {shallow:.1f} | {deep:.1f} | {deep / shallow:.2f} |", flush=True)
    if options.package:
        package_rows(model, arguments, options.rounds)


if __name__ == "__main__":
    main()
