"""What a plan costs: a hit against an empty call, its memory, a whole run against the FLOPs' ideal.

    python -m bench.planned [--rounds 8]

Everything is measured in one process, interleaved, one thread; seconds are the processor's. The ideal is the
number of steps over the number of computed ones, as a hit has no FLOPs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import fxcache
from fxcache import CachedTransformer, Plan

from .overhead import flux, inputs

STEPS, HITS = 28, 200
IMAGE_TOKENS, PROMPT_TOKENS = 4096, 512  # of FLUX.1 at 1024 x 1024


class Empty(nn.Module):
    """A model that does nothing."""

    def forward(self, hidden_states: Tensor, **other: Any) -> tuple[Tensor]:
        return (hidden_states,)


def steps_of(model: Callable[..., Any], arguments: Mapping[str, Any], count: int) -> list[float]:
    """Seconds of each of `count` steps."""
    found = []
    for i in range(count):
        timestep = torch.full((1,), 1 - i / count)
        begin = time.process_time()
        model(**arguments, timestep=timestep)
        found.append(time.process_time() - begin)
    return found


def of_hits(steps: int) -> Plan:
    """A plan whose first three steps are computed, and every other is a hit made of these."""
    rows = [(1, 0, 0, 0)] * 3 + [(0, 2, -1, 0.1)] * (steps - 3)
    return Plan(steps=steps, computed=(0, 1, 2), weights=tuple(rows))


def hits(arguments: Mapping[str, Any], rounds: int) -> dict[str, float]:
    """Median microseconds of a hit, eager and compiled, and of an empty call."""
    cached = fxcache.transform(flux(128), of_hits(HITS))
    models = {"empty call": Empty(), "hit, eager": cached, "hit, compiled": fxcache.compile(cached)}
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            times[name] += steps_of(model, arguments, HITS)[10:]
            if isinstance(model, CachedTransformer):
                model.reset()
    return {name: 1e6 * statistics.median(found) for name, found in times.items()}


def run(arguments: Mapping[str, Any], speedup: float, rounds: int, compiled: bool) -> tuple[float, float]:
    """(measured, ideal) speedup of a run of 28 steps."""
    model = flux(512)
    plan = fxcache.plan(steps=STEPS, speedup=speedup)
    cached, plain = fxcache.transform(model, plan), model
    if compiled:
        cached, plain = fxcache.compile(cached), torch.compile(model, fullgraph=True)
    totals: dict[str, list[float]] = {"plain": [], "planned": []}
    for turn in range(rounds + 1):  # the first compiles
        for name, used in (("plain", plain), ("planned", cached)):
            total = sum(steps_of(used, arguments, STEPS))
            totals[name] += [total] if turn else []
        cached.reset()
    return statistics.median(totals["plain"]) / statistics.median(totals["planned"]), plan.speedup


def memory() -> dict[str, float]:
    """MiB of what is remembered of one context for FLUX.1 at 1024 x 1024 in bfloat16, by setting."""
    from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel

    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=2, num_single_layers=2).bfloat16().eval()
        call = {
            "hidden_states": torch.empty(1, IMAGE_TOKENS, 64, dtype=torch.bfloat16),
            "encoder_hidden_states": torch.empty(1, PROMPT_TOKENS, 4096, dtype=torch.bfloat16),
            "pooled_projections": torch.empty(1, 768, dtype=torch.bfloat16),
            "timestep": torch.empty(1, dtype=torch.bfloat16),
            "img_ids": torch.empty(IMAGE_TOKENS, 3),
            "txt_ids": torch.empty(PROMPT_TOKENS, 3),
            "return_dict": False,
        }
    settings = ("P28K11", "F1B0_W8M0MC3_T1O1_R0.12")
    return {s: fxcache.explain(model, s, call).state_bytes / 2**20 for s in settings}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        print("| FLUX 4+8 blocks | microseconds |\n| --- | --- |")
        for name, found in hits(inputs(1024, 64), rounds).items():
            print(f"| {name} | {found:.0f} |")
        print("\n| state of FLUX.1 at 1024 x 1024, bfloat16 | MiB |\n| --- | --- |")
        for name, size in memory().items():
            print(f"| {name} | {size:.1f} |")
        print("\n| 28 steps, 512 wide, 320 tokens | measured | ideal | share |\n| --- | --- | --- | --- |")
        for compiled in (False, True):
            for speedup in (2.5, 4.0):
                measured, ideal = run(inputs(256, 64), speedup, rounds, compiled)
                kind = "compiled" if compiled else "eager"
                share = measured / ideal
                print(f"| {kind}, {speedup:g}x | {measured:.2f}x | {ideal:.2f}x | {share:.3f} |")


if __name__ == "__main__":
    main()
