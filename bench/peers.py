"""fxcache beside other caches: one process, one model, the same noise, in turns.

    python -m bench.peers                 # eager
    python -m bench.peers --compile       # each compiled as its makers advise

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
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from fxcache import CacheConfig, FxcacheError
from fxcache.benchmark.machine import describe
from fxcache.runtime.stats import ranges

if TYPE_CHECKING:
    from bench.contest import Entry


def main() -> None:
    options = _parse()
    if importlib.util.find_spec("cache_dit") is None:
        sys.exit("bench.peers needs cache-dit: pip install 'fxcache[peers]'")
    from bench.contenders import contenders, fewer_steps
    from bench.contest import enter, race

    try:
        config = CacheConfig.from_string(options.config)
    except FxcacheError as error:
        sys.exit(str(error))
    rows = [
        c for c in contenders(config, options.steps) if c.name == "plain" or _wanted(c.name, options.only)
    ]
    entries: list[Entry] = [_say(enter(c, options.steps, options.compile)) for c in rows]
    plain = entries[0]
    step = sum(plain.step_flops) / plain.steps
    own = [e for e in entries[1:] if e.contender.name.startswith("fxcache")]
    equal = {max(1, round(sum(e.step_flops) / step)) for e in own}
    entries += [
        _say(enter(fewer_steps(n), options.steps, options.compile)) for n in sorted(equal, reverse=True)
    ]
    race([e for e in entries if e.error is None], options.rounds)
    text, disagreements = _table(entries, plain, step, options)
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n")
    if disagreements:
        sys.exit("cached steps differ: " + "; ".join(disagreements))


def _wanted(name: str, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(fnmatch.fnmatch(name, p) for p in patterns)


def _say(entry: Entry) -> Entry:
    print(
        f"ready: {entry.contender.name}{'' if entry.error is None else ' FAILED ' + entry.error}",
        file=sys.stderr,
    )
    return entry


def _table(
    entries: Sequence[Entry], plain: Entry, step: float, options: argparse.Namespace
) -> tuple[str, list[str]]:
    from bench.contest import LABELS, MIB, psnr

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
            f"{sum(entry.step_flops) / len(LABELS) / 1e9:.2f}",
            f"{entry.latency * 1e3:.1f}",
            f"{plain.latency / entry.latency:.2f}",
            *(("", "") if entry is plain else (f"{mean:.2f}", f"{worst:.2f}")),
            f"{round((entry.held - plain.held) / MIB, 2) + 0.0:.2f}",  # + 0.0 makes -0.0 0.0
        ]
        if options.compile:
            cells += [str(entry.breaks), str(entry.graphs), f"{entry.compile_seconds:.1f}"]
        lines.append(cells)
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return "\n\n".join([_head(options), table, *notes]), disagreements


def _head(options: argparse.Namespace) -> str:
    from bench.contest import LABELS

    names = ("fxcache", "torch", "diffusers", "cache-dit")
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names)
    how = "compiled" if options.compile else "eager"
    return (
        f"Embedded model, float32, {describe(torch.device('cpu'))}; {options.steps} steps, {options.rounds} "
        f"rounds of {len(LABELS)} pictures, {how}; {versions}. Time (of the processor, one thread, median) "
        f"and FLOPs are of one picture; MiB held beyond the plain run's are of all {len(LABELS)}. "
        f"Made by `{shlex.join(['python', '-m', 'bench.peers', *sys.argv[1:]])}`."
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare fxcache with other caches on the embedded model.")
    parser.add_argument("--config", default="F1B0_W4M0MC3_T0O1_R0.12", help="DBCache setting")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="PATTERN", help="contenders by name, e.g. 'fxcache*'")
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
