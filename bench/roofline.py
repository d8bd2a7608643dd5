"""Steps of FLUX.1-dev on GPUs that are not here: kernels, bytes and FLOPs counted, time calculated.

    python -m bench.roofline [--arch sm_90] [--out bench/results/roofline.md]

Nothing is timed. The model (1024 x 1024 pixels, 512 text tokens, bfloat16, no weights) and its stages are
compiled for a GPU by a CUDA build of torch, which needs no GPU for that, up to the generated code. Each
kernel in it takes at least as long as its FLOPs or its bytes do at the card's peaks: their sum is the time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models import FluxTransformer2DModel
from rich.console import Console
from torch import Tensor

import fxcache
from bench.gpu.subjects import made
from bench.overhead import Minimum
from fxcache.backends.absent_gpu import target_gpu
from fxcache.backends.host.stage_fusion import host_path
from fxcache.benchmark.document import TERA, flux_dev, read_document
from fxcache.benchmark.tables import grid
from fxcache.config import ConfigLike
from fxcache.ir.interpret import run_part
from fxcache.ir.program import Program
from fxcache.ir.stage import Stage
from fxcache.notation import NONE
from fxcache.torch_private import FakeTensorMode, Launch, launches_of


@dataclass(frozen=True)
class Card:
    """A card by its maker's data sheet: FLOP/s of dense bfloat16 products, bytes/s of its memory."""

    name: str
    flops: float
    bytes: float

    def __str__(self) -> str:
        return f"{self.name}: {self.flops / TERA:.1f} TFLOP/s, {self.bytes / TERA:.3f} TB/s"

    def seconds(self, launches: Sequence[Launch]) -> float:
        """The least that they take, one after the other."""
        return sum(max(n.flops / self.flops, n.bytes / self.bytes) for n in launches)

    def bound_by_memory(self, launches: Sequence[Launch]) -> float:
        """Share of that time in kernels whose bytes take longer than their FLOPs."""
        slow = [n for n in launches if n.bytes / self.bytes > n.flops / self.flops]
        return self.seconds(slow) / self.seconds(launches)


H100 = Card("H100 SXM", 989.4e12, 3.35e12)
L20 = Card("L20", 119.5e12, 0.864e12)  # the document's

SETTINGS: Mapping[str, ConfigLike] = {
    "F1": "F1B0_W4M0MC4_T1O1_R0.12",
    "F8": "F8B0_W4M0MC4_T1O1_R0.12",
    "plan": fxcache.plan(steps=50, speedup=2.5),
}


def flux(dual: int, single: int) -> tuple[FluxTransformer2DModel, dict[str, Any]]:
    """FLUX.1-dev with so many blocks, and the arguments of a call; call it where tensors are fake."""
    model, arguments = made(torch.device("cuda"), lambda: flux_dev(num_layers=dual, num_single_layers=single))
    return model.requires_grad_(False), {**arguments, "return_dict": False}


@dataclass(frozen=True)
class Counted:
    """What one step launches."""

    name: str
    launches: tuple[Launch, ...]


def count_all(dual: int, single: int) -> Iterator[Counted]:
    """The plain model, the minimum of a hit with Fn = 1, and a hit and a computed step of each setting."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        model, arguments = flux(dual, single)
    yield Counted("plain", tuple(launches_of(model, **arguments)))
    yield Counted("minimum of a hit, F1", tuple(launches_of(Minimum(model), **arguments)))
    for name, config in SETTINGS.items():
        yield from count_steps(name, fxcache.transform(model, config, example_inputs=arguments), arguments)


def count_steps(
    name: str, cached: fxcache.CachedTransformer, arguments: Mapping[str, Any]
) -> Iterator[Counted]:
    """A hit and a computed step of mode "fused", whose stages run one after the other."""
    program = cached.graph.program
    path = host_path(program)
    first = path.speculated or path.front
    values = _values(program, arguments)
    begun = _launches([first], values)
    hits = () if path.speculated is not None else path.hits
    yield Counted(f"hit, {name}", (*begun, *_launches(hits, dict(values))))
    yield Counted(f"computed, {name}", (*begun, *_launches(path.misses, dict(values))))


def _values(program: Program, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What stages take, by name, before the first one runs."""
    tensors = [v for v in arguments.values() if isinstance(v, Tensor)]
    names = (n.name for n in program.capture.graph.graph.find_nodes(op="placeholder"))
    symbols = program.capture.shapes.bind([t.shape for t in tensors]) or {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        state = {s.name: s.allocate(symbols) for s in program.state}
    return {**{name: arguments[name] for name in names}, **state}


def _launches(stages: Sequence[Stage], values: dict[str, Any]) -> list[Launch]:
    """What stages launch that run one after the other; adds their outputs to `values`."""
    found: list[Launch] = []
    for stage in stages:
        found += launches_of(stage.graph, *[values[name] for name in stage.inputs])
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            run_part(stage, stage.graph, values)
    return found


@dataclass(frozen=True)
class Prediction:
    """Seconds of a picture. alone: from FLOPs and the plain row. line: from FLOPs and a fixed part."""

    name: str
    measured: float
    alone: float
    line: float


@dataclass(frozen=True)
class Line:
    """Seconds of a picture as `fixed` and its FLOPs at `rate` FLOP/s, by least squares over the document."""

    fixed: float
    rate: float

    def seconds(self, tflops: float) -> float:
        """Of a picture of so many TFLOPs."""
        return self.fixed + tflops * TERA / self.rate


def predict() -> tuple[Line, list[Prediction]]:
    """The document's latencies from its FLOPs."""
    rows = read_document()["rows"]
    tflops = [row["tflops"] for row in rows.values()]
    slope, fixed = np.polyfit(tflops, [row["latency"] for row in rows.values()], 1)
    line = Line(float(fixed), TERA / float(slope))
    plain = rows[NONE]
    return line, [
        Prediction(
            name,
            row["latency"],
            plain["latency"] * row["tflops"] / plain["tflops"],
            line.seconds(row["tflops"]),
        )
        for name, row in rows.items()
    ]


def counted_table(counted: Sequence[Counted]) -> str:
    """Launches, FLOPs, bytes and the cards' times, in Markdown."""
    cards = (H100, L20)
    head = ["step", "kernels", "of libraries", "TFLOPs", "GB"]
    head += [f"{c.name}, ms at least" for c in cards] + [f"bound by memory, {c.name}" for c in cards]
    rows = []
    for step in counted:
        found = step.launches
        flops, moved = sum(n.flops for n in found) / TERA, sum(n.bytes for n in found) / 1e9
        cells = [step.name, len(found), sum(n.library for n in found), f"{flops:.3f}", f"{moved:.2f}"]
        cells += [f"{1e3 * c.seconds(found):.2f}" for c in cards]
        cells += [f"{c.bound_by_memory(found):.0%}" for c in cards]
        rows.append(cells)
    return grid(head, rows)


def predicted_table(line: Line, predictions: Sequence[Prediction]) -> str:
    """The document's latencies beside what its FLOPs say, in Markdown."""
    head = ["setting", "measured, s", "FLOPs alone, s", "off", f"{line.fixed:.2f} s + FLOPs, s", "off"]
    rows = []
    for p in predictions:
        off = [f"{guess / p.measured - 1:+.1%}" for guess in (p.alone, p.line)]
        rows.append([p.name, p.measured, f"{p.alone:.2f}", off[0], f"{p.line:.2f}", off[1]])
    return grid(head, rows)


def picture_table(counted: Sequence[Counted], line: Line, steps: int) -> str:
    """Pictures on the document's card by its own fixed part and share of the roofline, in Markdown."""
    seconds = {step.name: L20.seconds(step.launches) for step in counted}
    share = seconds["plain"] * steps / (read_document()["rows"][NONE]["latency"] - line.fixed)
    rows = [("plain", steps * seconds["plain"])]
    for hits in (26, 32, 37):
        for name in ("F1", "F8"):
            cost = hits * seconds[f"hit, {name}"] + (steps - hits) * seconds[f"computed, {name}"]
            rows.append((f"{name}, {hits} of {steps} steps cached", cost))
    plan = SETTINGS["plan"]
    assert isinstance(plan, fxcache.Plan)
    hits = steps - len(plan.computed)
    cost = hits * seconds["hit, plan"] + len(plan.computed) * seconds["computed, plan"]
    rows.append((f"plan, {hits} of {steps} steps cached", cost))
    totals = [(name, line.fixed + cost / share) for name, cost in rows]
    cells = [(name, f"{total:.2f}", f"{totals[0][1] / total:.2f}") for name, total in totals]
    return f"A plain step is {share:.0%} of the roofline there.\n\n" + grid(
        ["picture", "s", "times faster"], cells
    )


def report(counted: Sequence[Counted], arch: str) -> str:
    """All of it, in Markdown."""
    line, predictions = predict()
    return f"""# FLUX.1-dev by counting

**A calculation: nothing here was timed on a GPU.** `python -m bench.roofline --arch {arch}`, torch
{torch.__version__}: 1024 x 1024 pixels, 512 text tokens, bfloat16, batch 1, mode "fused", the code that is
generated for {arch}. A kernel takes at least its FLOPs at the card's peak, or its bytes (arguments and
results, each once); a step, the sum of its kernels. What launching them takes is not in it.
{H100}. {L20}.

{counted_table(counted)}

## The document's latencies from its FLOPs

The document's own numbers, one {L20.name}, 50 steps. By least squares a picture is {line.fixed:.2f} s, which
no cache changes, and its FLOPs at {line.rate / TERA:.1f} TFLOP/s.

{predicted_table(line, predictions)}

## Pictures on that card

By the counts above and the document's fixed part; what part of the roofline is reached, from its plain row.
{picture_table(counted, line, read_document()["steps"])}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="sm_90", help="the GPU that code is generated for")
    parser.add_argument("--out", type=Path, default=Path("bench/results/roofline.md"))
    arguments = parser.parse_args()
    console, counted = Console(stderr=True), []
    with target_gpu(arguments.arch), console.status("capturing and compiling") as status:
        for step in count_all(dual=19, single=38):
            counted.append(step)
            status.update(f"counted: {step.name}")
    arguments.out.write_text(report(counted, arguments.arch))
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
