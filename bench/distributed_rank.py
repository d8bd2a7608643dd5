"""One rank of `bench.distributed`: it runs the same trajectories as all others, and writes what it found.

A FLUX of random weights, its sequence split among the ranks. A trajectory is an Euler sampler that follows
what the model says, so that a wrong step shows in all that come after.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor, nn

import fxcache
from bench.gpu.subjects import made
from bench.overhead import inputs, network
from fxcache import CacheConfig
from fxcache.benchmark.sharing import Share
from fxcache.ops.agreement import gather
from fxcache.runtime.host_group import host_group

Call = Callable[[Tensor, float], dict[str, Any]]
NEVER, ALWAYS = 1e-9, 1e9


@dataclass(frozen=True)
class Size:
    """steps: of a trajectory. rounds: of which the median is taken."""

    dual: int
    single: int
    width: int
    tokens: int
    prompt: int
    steps: int
    rounds: int


QUICK = Size(dual=1, single=2, width=128, tokens=64, prompt=16, steps=8, rounds=1)
SIZES = {"quick": QUICK, "cpu": Size(2, 4, 256, 256, 32, 12, 2), "gpu": Size(19, 38, 3072, 4096, 512, 20, 3)}


@dataclass
class Ran:
    """A trajectory: what the model returned, seconds of each step, and which were hits."""

    returned: list[Tensor]
    seconds: list[float]
    hits: list[bool]


class Rank:
    """This process, its device, and the model that it shares with the others."""

    def __init__(self, share: Share, size: Size, device: torch.device, options: argparse.Namespace) -> None:
        self.share, self.size, self.device, self.options = share, size, device, options
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        torch.manual_seed(0)
        small = device.type == "cpu"
        self.model: Any = model(size) if small else made(device, lambda: model(size))
        if share.processes > 1:
            for parameter in self.model.parameters():
                dist.broadcast(parameter.data, 0)
        draw = torch.manual_seed(1)
        config: Any = self.model.config
        widths = config.joint_attention_dim, config.in_channels, config.pooled_projection_dim
        given = inputs(size.tokens, size.prompt, *widths)
        self.start = torch.randn(1, size.tokens, config.in_channels, generator=draw).to(device, dtype)
        self.given = {n: v.to(device, dtype) if isinstance(v, Tensor) else v for n, v in given.items()}
        self.given |= {n: v.float() for n, v in self.given.items() if n.endswith("_ids")}

    def split(self) -> None:
        """Let the ranks split the sequence from here on."""
        if self.share.processes > 1:
            if self.options.attention:
                self.model.set_attention_backend(self.options.attention)
            degree = {f"{self.options.split}_degree": self.share.processes}
            self.model.enable_parallelism(config=ContextParallelConfig(**degree))

    def run(self, model: Any) -> Ran:
        """A trajectory. Cached models begin a new one."""
        cached = isinstance(model, fxcache.CachedTransformer)
        if cached:
            model.reset()
        sample, ran, steps = self.start, Ran([], [], []), self.size.steps
        with torch.no_grad():
            for step in range(steps):
                timestep = torch.full((1,), 1 - step / steps, device=self.device)
                self._wait()
                begin = time.perf_counter()
                arguments = {**self.given, "hidden_states": sample, "timestep": timestep}
                (change,) = model(**arguments)
                self._wait(alone=True)
                ran.seconds.append(time.perf_counter() - begin)
                ran.returned.append(change.float().cpu())
                sample = sample - change / steps
        ran.hits = list(next(iter(model.stats().contexts.values())).hits) if cached else [False] * steps
        return ran

    def again(self, model: Any) -> list[Ran]:
        """The first trajectory, which captures and compiles, and then those that are timed."""
        return [self.run(model) for _ in range(1 + self.size.rounds)]

    def cached(self, config: Any) -> Any:
        made = fxcache.transform(self.model, config)
        return fxcache.compile(made, mode=self.options.mode) if self.options.mode else made

    def microseconds(self, call: Callable[[], object]) -> float:
        """The median of a call that all ranks make."""
        times: list[float] = []
        for _ in range(50):
            self._wait()
            begin = time.perf_counter()
            call()
            self._wait(alone=True)
            times.append(time.perf_counter() - begin)
        return 1e6 * statistics.median(times)

    def _wait(self, alone: bool = False) -> None:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        if not alone and self.share.processes > 1:
            dist.barrier()


def model(size: Size) -> nn.Module:
    """A FLUX of this size, random weights; the widest is FLUX.1's own shape."""
    if size.width < 3072:
        return network(size.width, size.dual, size.single)
    shape = FluxTransformer2DModel(num_layers=size.dual, num_single_layers=size.single)
    return shape.eval().requires_grad_(False)


def setting(threshold: float) -> CacheConfig:
    """At most three hits in a row, after two computed steps."""
    return CacheConfig(
        fn_compute_blocks=1,
        max_warmup_steps=2,
        max_continuous_cached_steps=3,
        residual_diff_threshold=threshold,
    )


def between(diffs: Sequence[float]) -> float:
    """A threshold in the widest gap of the middle half of what was measured: no rounding decides."""
    ordered = sorted(diffs)
    quarter = len(ordered) // 4
    middle = ordered[quarter : len(ordered) - quarter]
    low, high = max(itertools.pairwise(middle), key=lambda pair: pair[1] - pair[0])
    return (low + high) / 2


def milliseconds(runs: Sequence[Ran], hit: bool) -> float | None:
    """The median of steps that were hits, or computed, without the first run."""
    found = [s for ran in runs[1:] for s, h in zip(ran.seconds, ran.hits, strict=True) if h is hit]
    return 1e3 * statistics.median(found) if found else None


def work(rank: Rank, folder: Path) -> dict[str, Any]:
    """What is written of this rank. The single process leaves its outputs and threshold for the others."""
    alone = folder / "alone.pt"
    rank.split()
    plain = rank.again(rank.model)
    cached = rank.cached(setting(NEVER))
    never = rank.run(cached)
    diffs = dict(next(iter(cached.stats().contexts.values())).residual_diffs)
    single = rank.share.processes == 1
    threshold = between(list(diffs.values())) if single else torch.load(alone)["threshold"]
    cached.configure(setting(threshold))
    decided = rank.run(cached)
    cached.configure(setting(ALWAYS))
    always = rank.again(cached)
    plan = rank.again(rank.cached(fxcache.plan(steps=rank.size.steps, speedup=2.5)))
    if single:
        kept = {"threshold": threshold, "diffs": diffs, "hits": decided.hits}
        torch.save({**kept, "plain": plain[0].returned, "decided": decided.returned}, alone)
    expected = torch.load(alone)
    whole = [sum(ran.seconds) for ran in plan[1:]]
    return {
        "never off plain": away(never.returned, plain[0].returned),
        "plain off": away(plain[0].returned, expected["plain"]),
        "decided off": away(decided.returned, expected["decided"]),
        "hits": decided.hits,
        "hits of one": expected["hits"],
        "diffs": list(diffs.values()),
        "diffs of one": list(expected["diffs"].values()),
        "said": [group.describe() for group in cached.processes],
        "plain ms": milliseconds(plain, hit=False),
        "miss ms": milliseconds(always, hit=False),
        "hit ms": milliseconds(always, hit=True),
        "plan ms": 1e3 * statistics.median(whole) / rank.size.steps,
        **telling(rank, cached),
        "size": asdict(rank.size),
    }


def away(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of any step, in units of the largest value."""
    largest = max(float(e.abs().max()) for e in expected)
    return max(float((f - e).abs().max()) for f, e in zip(found, expected, strict=True)) / largest


def telling(rank: Rank, cached: Any) -> dict[str, float | None]:
    """Microseconds of what ranks tell each other in a step: a gather in the graph, a maximum on the host."""
    if not cached.processes:
        return {"gather us": None, "host us": None}
    [group] = cached.processes
    host, numbers = host_group(group), torch.ones(32, device=rank.device)
    told = torch.zeros(3, dtype=torch.int64)
    return {
        "gather us": rank.microseconds(lambda: gather(numbers, group.name, group.size)),
        "host us": rank.microseconds(lambda: dist.all_reduce(told, dist.ReduceOp.MAX, group=host)),
    }


def main() -> None:
    """Started by `bench.distributed`, alone or by torchrun."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name in ("size", "device", "split", "mode", "attention"):
        parser.add_argument(f"--{name}")
    options = parser.parse_args()
    share = Share.of_environment(1)
    team = Share.of_environment(share.world)
    device = team.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
        torch.accelerator.device_count = lambda: 1  # diffusers takes ranks modulo it, and divides by 0
    else:
        torch.accelerator.set_device_index(device)
    if share.world > 1:
        dist.init_process_group(dist.get_default_backend_for_device(device))
    found = work(Rank(team, SIZES[options.size], device, options), options.folder)
    (options.folder / f"{team.processes}-{team.process}.json").write_text(json.dumps(found))
    if share.world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
