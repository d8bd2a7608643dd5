"""Several ranks with one model: do they decide alike, is it the same picture, and how fast are the steps?

    python -m bench.distributed [--device cpu --quick] [--ranks 1 2 4 8] [--split ring] [--mode fused]

A FLUX with random weights runs on 1, 2, 4 and 8 ranks that split its sequence (diffusers' context
parallelism; Ulysses, or ring attention), with NCCL on CUDA and gloo on a CPU. Checked: all ranks take the
same decisions, from the same bits; these are the decisions of one process; with nothing cached the output is
the plain model's under the same parallelism, bit for bit; and it is that of one process within the tolerance
of the dtype. Timed: a plain step, a computed and a cached one, a mean step of a plan, the gather by which
ranks agree on a step, and what their hosts tell one another before it.

Writes `distributed-*.json` into --out, prints a table, and returns 1 where a check failed.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fxcache.benchmark.machine import describe, versions

Found = dict[int, list[dict[str, Any]]]  # what each rank found, by their number
RANKS = (1, 2, 4, 8)
PATIENCE = 3600  # seconds for one number of ranks; a rank that hangs ends the others' wait before
TOLERANCE = {"cpu": 1e-5, "other": 3e-2}  # of float32, and of bfloat16, in units of the largest value
TIMES = ("plain ms", "miss ms", "hit ms", "plan ms", "gather us", "host us")


def checks(ranks: Sequence[Mapping[str, Any]], tolerance: float) -> dict[str, bool]:
    """What must hold of so many ranks, by name."""
    first = ranks[0]
    close = all(
        abs(a - b) <= tolerance * abs(b)
        for r in ranks
        for a, b in zip(r["diffs"], r["diffs of one"], strict=True)
    )
    found = {
        "decisions alike": all(r["hits"] == first["hits"] and r["diffs"] == first["diffs"] for r in ranks),
        "decisions of one process": all(r["hits"] == r["hits of one"] and any(r["hits"]) for r in ranks),
        "signals of one process": close,
        "nothing cached, bitwise": all(r["never off plain"] == 0 for r in ranks),
        "output of one process": all(max(r["plain off"], r["decided off"]) <= tolerance for r in ranks),
    }
    if len(ranks) > 1:
        found["ranks found each other"] = all(len(r["said"]) == 1 for r in ranks)
    return found


def slowest(ranks: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """The time of the slowest rank: the others wait for it."""
    times = [r[name] for r in ranks if r[name] is not None]
    return max(times) if times else None


def table(found: Found, tolerance: float) -> str:
    """Lines of Markdown: a row for each number of ranks."""
    lines = [
        f"| ranks | {' | '.join(TIMES)} | hit, x plain | plan, x one plain | checks |",
        f"| ---: | {'---: | ' * len(TIMES)}---: | ---: | --- |",
    ]
    for count, ranks in found.items():
        times = {name: slowest(ranks, name) for name in TIMES}
        failed = [name for name, holds in checks(ranks, tolerance).items() if not holds]
        one = slowest(found[min(found)], "plain ms")
        cells = ["-" if t is None else f"{t:.2f}" for t in times.values()]
        cells += [_times(times["plain ms"], times["hit ms"]), _times(one, times["plan ms"])]
        said = f"FAILED: {', '.join(failed)}" if failed else "passed"
        lines.append(f"| {count} | {' | '.join(cells)} | {said} |")
    return "\n".join(lines)


def _times(slow: float | None, fast: float | None) -> str:
    return f"{slow / fast:.2f}" if slow and fast else "-"


def started(count: int, folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run so many ranks. Raises `RuntimeError` with what they said where one fails."""
    command = [sys.executable, "-m"]
    if count > 1:
        command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m"]
    size = "quick" if options.quick else "cpu" if options.device == "cpu" else "gpu"
    command += ["bench.distributed_rank", str(folder), "--size", size]
    for name in ("device", "split", "mode", "attention"):
        value = getattr(options, name)
        command += [f"--{name}", value] if value else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return [json.loads((folder / f"{count}-{rank}.json").read_text()) for rank in range(count)]


def main(arguments: Sequence[str]) -> int:
    """Run, print, write. Returns 1 where a check failed, 2 where there is no such device."""
    options = _parse(arguments)
    seen = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if options.device != "cpu" and not seen:
        print("torch sees no accelerator: --device cpu runs with gloo", file=sys.stderr)
        return 2
    most = max(options.ranks or (1, 2)) if options.device == "cpu" else seen
    counts = [1, *(n for n in options.ranks or RANKS if 1 < n <= most)]  # what others are compared with
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            print(f"{count} of {counts}", file=sys.stderr, flush=True)
            found[count] = started(count, Path(folder), options)
    tolerance = TOLERANCE["cpu" if options.device == "cpu" else "other"]
    print(table(found, tolerance))
    device = torch.device(options.device or torch.accelerator.current_accelerator() or "cpu")
    failed = {n: [c for c, holds in checks(r, tolerance).items() if not holds] for n, r in found.items()}
    report = {
        "command": shlex.join(["python", "-m", "bench.distributed", *arguments]),
        "device": describe(device),
        "versions": versions(),
        "backend": torch.distributed.get_default_backend_for_device(device),
        "failed": {str(n): names for n, names in failed.items() if names},
        "ranks": {str(n): ranks for n, ranks in found.items()},
    }
    card = re.sub(r"[^a-z0-9]+", "-", describe(device).lower()).strip("-")
    path = options.out / f"distributed-{card}{'-quick' if options.quick else ''}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {path}", file=sys.stderr)
    return 1 if report["failed"] else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    formatter = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.distributed", None, __doc__, formatter_class=formatter)
    parser.add_argument("--device", help="cuda, cpu ...; by default what torch sees")
    parser.add_argument("--quick", action="store_true", help="a small model, few steps")
    parser.add_argument("--ranks", type=int, nargs="+", help="how many; default 1 2 4 8 as far as there are")
    parser.add_argument("--split", choices=["ulysses", "ring"], default="ulysses", help="how")
    parser.add_argument("--attention", help="diffusers' attention backend; ring needs one with a log-sum-exp")
    parser.add_argument("--mode", help="compile the cached models so: fused, single, staged")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder for what is written")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
