"""Policies at equal FLOPs: each with the numbers and the threshold that `calibrate` finds.

    python -m bench.policies                            # the embedded model, 28 steps
    python -m bench.policies --model emoji_pixart
    python -m bench.policies --budgets 2 --pictures 20 --only EasyCache DBCache

Quality is PSNR in dB to the uncached pictures of the same noise and steps, mean / mean of the worst 5%, on
seeds that nothing was fitted to. Time is the process's for a picture against the plain model's, the median of
rounds in turns. Prints Markdown; --out writes it, too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxcache
from bench.plans import RUN, SUBJECTS, Bench, Cell, Subject
from fxcache import (
    Budget,
    CacheConfig,
    CachedTransformer,
    DBCache,
    EasyCache,
    FixedInterval,
    ForecastError,
    GrowingWindow,
    MagCache,
    Policy,
    Reuse,
    SeaCache,
    TaylorSeer,
    TeaCache,
)
from fxcache.errors import CalibrationError
from fxcache.runtime.stats import speedup

WARMUP = 3
TIMED = 10  # pictures of a round
SEA = {
    "embedded": SeaCache(grid=(7, 7), full_noise=1.0),
    "emoji_pixart": SeaCache(full_noise=1000.0),
}


@dataclass(frozen=True)
class Row:
    """A policy, and what a hit replays."""

    name: str
    config: CacheConfig


def rows(subject: str) -> Iterator[Row]:
    """Every policy with TaylorSeer, and with feedback; without a front as its makers have it, too."""
    line, reuse = TaylorSeer(order=1), Reuse()
    front: tuple[Policy, ...] = (DBCache(), ForecastError(), Budget())
    free: tuple[Policy, ...] = (TeaCache(), EasyCache(), MagCache([1.0]), SEA[subject])
    blind: tuple[Policy, ...] = (FixedInterval(2), FixedInterval(3), GrowingWindow(2, 0.25), GrowingWindow())
    for policy in (*front, *free, *blind):
        name = _called(policy) + (", F1" if policy in front else "")
        blocks: dict[str, Any] = {
            "fn_compute_blocks": int(policy in front),
            "max_warmup_steps": WARMUP,
            "policy": policy,
        }
        whole = {**blocks, "level": "output"}
        yield Row(name, CacheConfig(**(blocks if policy in front else whole), forecaster=line))
        yield Row(f"{name}, feedback", CacheConfig(**whole, forecaster=line, feedback=True))
        if policy in free:
            yield Row(f"{name}, replayed as it is", CacheConfig(**whole, forecaster=reuse))


def _called(policy: Policy) -> str:
    if isinstance(policy, (FixedInterval, GrowingWindow)):
        return f"{type(policy).__name__}({', '.join(f'{number:g}' for number in policy.numbers())})"
    return type(policy).__name__


def as_made(subject: str) -> Iterator[Row]:
    """The rows to put beside other makers' caches, but DBCache, which is among these anyway.

    A policy that needs no block is as its makers have it, and with feedback; the others have a line.
    """
    for row in rows(subject):
        config = row.config
        free = tunable(config) and config.fn_compute_blocks == 0
        replayed = isinstance(config.forecaster, Reuse)
        if not isinstance(config.policy, DBCache) and (config.feedback or replayed) == free:
            yield row


def tunable(config: CacheConfig) -> bool:
    """Whether a threshold decides."""
    return not isinstance(config.policy, (FixedInterval, GrowingWindow))


def calibrated(
    subject: Subject, config: CacheConfig, steps: int, speedup: float, runs: int, first: int = 0
) -> CacheConfig:
    """The policy's numbers and its threshold, found on runs of `RUN` pictures with seeds from `first`."""

    def run(model: nn.Module, i: int) -> Tensor:
        return subject.draw(model, range(first + RUN * i, first + RUN * (i + 1)), steps, 1.0, None)

    found: CacheConfig = fxcache.calibrate(subject.model, run=run, runs=runs, speedup=speedup, config=config)
    return found


def measure(bench: Bench, config: CacheConfig, rounds: int) -> tuple[float, Cell, float]:
    """Times fewer FLOPs, quality, and the time against the plain model's."""
    cached = fxcache.transform(bench.subject.model, config)
    cell = Cell.of(bench.compare(cached))
    return speedup(cached.stats().contexts.values()), cell, _slowness(bench, cached, rounds)


def _slowness(bench: Bench, cached: CachedTransformer, rounds: int) -> float:
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds):
        for plain in (True, False) if number % 2 else (False, True):
            begin = time.process_time()
            bench.draw(bench.subject.model if plain else cached, bench.seeds[:TIMED])
            seconds[plain].append(time.process_time() - begin)
    return statistics.median(seconds[False]) / statistics.median(seconds[True])


def table(bench: Bench, options: argparse.Namespace) -> str:
    """All rows at all budgets, as Markdown."""
    head = f"{bench.subject.name}, {bench.steps} steps"
    lines = [f"| {head} | asked | FLOPs | PSNR | time | R |", "| --- " * 6 + "|"]
    for row in rows(bench.subject.name):
        if options.only and not any(name in row.name for name in options.only):
            continue
        for budget in options.budgets if tunable(row.config) else (None,):
            config = row.config
            try:
                if budget is not None:
                    config = calibrated(bench.subject, config, bench.steps, budget, options.runs)
            except CalibrationError as error:
                lines.append(f"| {row.name} | {budget:g}x | {error} | - | - | - |")
                continue
            saved, cell, slowness = measure(bench, config, options.rounds)
            asked = "-" if budget is None else f"{budget:g}x"
            threshold = f"{config.residual_diff_threshold:g}" if tunable(config) else "-"
            line = f"| {row.name} | {asked} | {saved:.2f}x | {cell} | {slowness:.2f} | {threshold} |"
            print(line, flush=True)
            lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> None:
    options = _parse()
    torch.set_num_threads(1)
    bench = Bench(SUBJECTS[options.model](), options.steps, 1.0, options.pictures)
    text = table(bench, options) + f"\n{options.pictures} pictures\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.policies", description=__doc__)
    parser.add_argument("--model", choices=sorted(SUBJECTS), default="embedded")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--budgets", type=float, nargs="+", default=[1.5, 2.0, 3.0])
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--runs", type=int, default=6, help=f"calibration runs, of {RUN} pictures each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="rows whose names hold one of these")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
