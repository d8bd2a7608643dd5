"""The command; see `python -m bench.gpu --help`."""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

import bench.gpu
from fxcache.benchmark.machine import describe, versions

from .report import COLORS, Report
from .rows import MakeChecks, Row
from .running import run
from .sections import SECTIONS
from .setup import Setup

PROGRESS = Console(stderr=True, soft_wrap=True)


def main(arguments: Sequence[str], sections: Mapping[str, MakeChecks] = SECTIONS) -> int:
    """Run, print, write. Returns 1 where a check failed, 2 where there is no such device.

    sections: what there is to run, by name.
    """
    options = _parse(arguments, sections)
    device = _device(options.device)
    if device is None:
        print(f"torch sees no {options.device or 'accelerator'}: --device cpu runs without", file=sys.stderr)
        return 2
    quick_cpu = options.quick and device.type == "cpu"
    setup = Setup(device, options.quick, options.backend or ("eager" if quick_cpu else "inductor"))
    if device.type == "cpu":
        torch.set_num_threads(1)
    else:
        torch.accelerator.set_device_index(device.index)
    torch.manual_seed(0)
    chosen = {name: make for name, make in sections.items() if name in (options.only or sections)}
    begin = time.perf_counter()
    found = run(chosen, setup, options.budget, _say)
    report = Report(_title(setup), _facts(setup, arguments, time.perf_counter() - begin), found)
    report.show(Console(width=None if sys.stdout.isatty() else 200))
    for path in _write(report, setup, options.out):
        PROGRESS.print(f"written: {path}")
    return 1 if report.failed else 0


def _parse(arguments: Sequence[str], sections: Mapping[str, MakeChecks]) -> argparse.Namespace:
    formatter = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m bench.gpu", None, bench.gpu.__doc__, formatter_class=formatter
    )
    parser.add_argument("--device", help="cuda, cuda:1, xpu, cpu ...; by default what torch sees")
    parser.add_argument("--quick", action="store_true", help="smaller models, fewer settings and rounds")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder for what is written")
    parser.add_argument(
        "--only", nargs="+", metavar="SECTION", choices=list(sections), help=", ".join(sections)
    )
    parser.add_argument("--budget", type=float, default=480, help="seconds for all of it")
    parser.add_argument(
        "--backend", help='of torch.compile; by default inductor, and "eager" for --quick on a CPU'
    )
    return parser.parse_args(arguments)


def _device(name: str | None) -> torch.device | None:
    """With its index. None where torch does not see it."""
    current = torch.accelerator.current_accelerator(check_available=True)
    device = torch.device(name) if name else current
    if device is None or device.type == "cpu":
        return device
    if current is None or device.type != current.type:
        return None
    index = torch.accelerator.current_device_index() if device.index is None else device.index
    return torch.device(device.type, index) if index < torch.accelerator.device_count() else None


def _say(section: str, row: Row) -> None:
    said = f"[{COLORS[row.status]}]{row.status}[/] {row.seconds:6.1f} s  {section}: {escape(row.name)}"
    PROGRESS.print(said + (f"  [dim]{escape(row.note)}[/]" if row.note else ""), highlight=False)


def _title(setup: Setup) -> str:
    return f"{describe(setup.device)}{', quick' if setup.quick else ''}"


def _facts(setup: Setup, arguments: Sequence[str], seconds: float) -> dict[str, str]:
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    facts = {
        "command": f"`{shlex.join(['python', '-m', 'bench.gpu', *arguments])}`",
        "date": datetime.date.today().isoformat(),
        "took": f"{seconds:.0f} s",
        "versions": said,
    }
    if setup.device.type == "cpu":
        facts["times"] = "of the processor, one thread"
    if setup.backend != "inductor":
        facts["compiled"] = f'with backend="{setup.backend}" of torch.compile, packages excepted'
    return facts


def _write(report: Report, setup: Setup, folder: Path) -> list[Path]:
    kind = "cpu" if setup.device.type == "cpu" else "gpu"
    card = re.sub(r"[^a-z0-9]+", "-", describe(setup.device).lower()).strip("-")
    stem = f"{kind}-{card}{'-quick' if setup.quick else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {".json": json.dumps(report.json(), indent=1) + "\n", ".md": report.markdown()}
    for ending, text in texts.items():
        (folder / (stem + ending)).write_text(text)
    return [folder / (stem + ending) for ending in texts]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
