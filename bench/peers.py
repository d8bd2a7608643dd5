"""fxcache beside other caches: one process, one model, the same noise, in turns.

    python -m bench.peers                         # the embedded model, eager
    python -m bench.peers --model emoji_pixart    # the other model
    python -m bench.peers --policies              # and our policies, at the FLOPs of DBCache
    python -m bench.peers --compile               # each compiled as its makers advise

Needs `pip install 'fxcache[peers]'`. Prints a Markdown table; --out writes it to a file too. Exits
with 1 where a peer's cached steps differ from ours although the semantics are the same.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import importlib.util
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from bench.contenders import FITTED_ON, Contender, contenders, fewer_steps, policies
from bench.contest import MIB, PICTURES, Entry, enter, psnr, race
from bench.plans import RUN
from bench.stages import STAGES, Stage
from fxcache import CacheConfig, FxcacheError
from fxcache.benchmark.machine import describe
from fxcache.runtime.stats import ranges


def main() -> None:
    options = _parse()
    if importlib.util.find_spec("cache_dit") is None:
        sys.exit("bench.peers needs cache-dit: pip install 'fxcache[peers]'")
    try:
        config = CacheConfig.from_string(options.config)
    except FxcacheError as error:
        sys.exit(str(error))
    torch.set_num_threads(1)
    stage = STAGES[options.model]()

    def entered(rows: Iterable[Contender]) -> list[Entry]:
        return [_say(enter(row, stage, options.steps, options.compile)) for row in rows]

    plain, dbcache, *others = contenders(config, options.steps)
    needed = (plain, dbcache) if options.policies else (plain,)
    entries = entered(c for c in (plain, dbcache, *others) if c in needed or _wanted(c, options))
    step = sum(entries[0].step_flops) / entries[0].steps
    own = [e for e in entries if e.contender.name.startswith("fxcache")]
    equal = {max(1, round(sum(e.step_flops) / step)) for e in own if e.error is None}
    if options.policies:
        if own[0].error is not None:
            sys.exit(f"DBCache could not be run: {own[0].error}")
        speedup = sum(entries[0].step_flops) / sum(own[0].step_flops)
        found = policies(options.model, options.steps, speedup, options.runs)
        entries += entered(c for c in found if _wanted(c, options))
    entries += entered(fewer_steps(n) for n in sorted(equal - {options.steps}, reverse=True))
    race([e for e in entries if e.error is None], options.rounds)
    text, disagreements = _table(entries, stage, step, options)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    if disagreements:
        sys.exit("cached steps differ: " + "; ".join(disagreements))


def _wanted(contender: Contender, options: argparse.Namespace) -> bool:
    return options.only is None or any(fnmatch.fnmatch(contender.name, p) for p in options.only)


def _say(entry: Entry) -> Entry:
    print(
        f"ready: {entry.contender.name}{'' if entry.error is None else ' FAILED ' + entry.error}",
        file=sys.stderr,
    )
    return entry


def _table(
    entries: Sequence[Entry], stage: Stage, step: float, options: argparse.Namespace
) -> tuple[str, list[str]]:
    plain = entries[0]
    by_name = {e.contender.name: e for e in entries}
    heads = ["", "cached", "same hits", "GFLOPs", "ms", "x", "PSNR", "worst 5%", "held MiB"]
    heads += ["graph breaks", "graphs", "first run s"] if options.compile else []
    lines, disagreements, notes = [heads, ["---"] * len(heads)], [], []
    for entry in entries:
        name = entry.contender.name
        if entry.error is not None:
            notes.append(f"{name} could not be run: {entry.error}")
            continue
        hits = entry.cached_steps(step)
        same = ""
        other = by_name.get(entry.contender.same_hits_as or "")
        if other is not None and other.error is None:
            same = "yes" if hits == other.cached_steps(step) else "NO"
            if same == "NO":
                disagreements.append(
                    f"{name}: {ranges(hits)}; {other.contender.name}: {ranges(other.cached_steps(step))}"
                )
        mean, worst = psnr(entry, plain)
        cells = [
            name,
            f"{len(hits)} of {entry.steps}",
            same,
            f"{sum(entry.step_flops) / PICTURES / 1e9:.2f}",
            f"{entry.latency * 1e3:.1f}",
            f"{plain.latency / entry.latency:.2f}",
            *(("", "") if entry is plain else (f"{mean:.2f}", f"{worst:.2f}")),
            f"{round((entry.held - plain.held) / MIB, 2) + 0.0:.2f}",  # + 0.0 makes -0.0 0.0
        ]
        if options.compile:
            cells += [str(entry.breaks), str(entry.graphs), f"{entry.compile_seconds:.1f}"]
        lines.append(cells)
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return "\n\n".join([_head(stage, options), table, *_thresholds(entries, options), *notes]), disagreements


def _thresholds(entries: Sequence[Entry], options: argparse.Namespace) -> list[str]:
    """Those that were found, in words."""
    found = []
    for entry in entries:
        if entry.contender.calibrated and entry.pipe is not None:
            threshold = entry.pipe.transformer.cache_config.residual_diff_threshold
            found.append(f"{entry.contender.name} {threshold:g}")
    runs = f"{options.runs} runs of {RUN} pictures with seeds from {FITTED_ON}"
    return [f"Thresholds found on {runs}: {'; '.join(found)}."] if found else []


def _head(stage: Stage, options: argparse.Namespace) -> str:
    names = ("fxcache", "torch", "diffusers", "cache-dit")
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names)
    how = "compiled" if options.compile else "eager"
    return (
        f"{stage.title}, float32, {describe(torch.device('cpu'))}; {options.steps} steps, {options.rounds} "
        f"rounds of {PICTURES} pictures, {how}; {versions}. Time (of the processor, one thread, median) "
        f"and FLOPs are of one picture; MiB held beyond the plain run's are of all {PICTURES}. "
        f"Made by `{shlex.join(['python', '-m', 'bench.peers', *sys.argv[1:]])}`."
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare fxcache with other caches.")
    parser.add_argument("--model", choices=sorted(STAGES), default="embedded")
    parser.add_argument("--config", default="F1B0_W4M0MC3_T0O1_R0.12", help="DBCache setting")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--policies", action="store_true", help="our policies, too, at the FLOPs of DBCache")
    parser.add_argument("--runs", type=int, default=6, help=f"to calibrate these on, of {RUN} pictures each")
    parser.add_argument("--only", nargs="+", metavar="PATTERN", help="contenders by name, e.g. 'fxcache*'")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
