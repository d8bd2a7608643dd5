"""`python -m bench.server`: see the package."""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import torch
from tqdm import tqdm

from fxcache.benchmark.machine import describe, versions
from fxcache.errors import IdleCacheWarning

from . import __doc__ as said
from .rounds import Found, run

MIB = 1 << 20


def main() -> None:
    """Serve, say what was found, write it; exit code 1 where a picture was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.server", description=said, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--distinct", type=int, default=150, help="different ones among them")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=20, help="it stops after so many")
    parser.add_argument("--out", type=Path, default=Path("bench/results/server.json"))
    given = parser.parse_args()
    warnings.simplefilter("ignore", IdleCacheWarning)  # some requests are not to be cached
    with tqdm(total=given.requests, unit="request", disable=None) as bar:

        def say(found: Found) -> None:
            bar.update(found.served - bar.n)

        found = run(given.requests, given.threads, given.distinct, given.minutes * 60, say)
    summary = found.summary()
    command = f"python -m bench.server --requests {given.requests} --distinct {given.distinct}"
    about = {
        "command": f"{command} --threads {given.threads} --minutes {given.minutes:g}",
        "device": describe(torch.device("cpu")),
        "versions": versions(),
    }
    given.out.write_text(json.dumps({**about, **summary}, indent=1) + "\n")
    first, last = found.samples[min(2, len(found.samples) - 1)], found.samples[-1]
    print(f"{found.served} requests, {found.cancelled} cancelled, {len(found.wrong)} wrong")
    print(f"memory {first.rss / MIB:.0f} MiB after {first.served}, {last.rss / MIB:.0f} at the end")
    print(f"tensors {first.tensors}, {last.tensors}; {last.state / MIB:.3f} MiB of records")
    print(f"captures {last.captures}; latency, cached over plain: {summary['latency_cached_over_plain']}")
    raise SystemExit(1 if found.wrong else 0)


if __name__ == "__main__":
    main()
