"""Plans at five budgets, beside what else could be done with the same work.

    python -m bench.plans                              # the embedded model, 28 and 50 steps
    python -m bench.plans --model emoji_pixart --steps 28
    python -m bench.plans --pictures 20 --grid-pictures 10 --budgets 2.5 4
    python -m bench.plans --guidance 1 2 4 --rows calibrate transfer

Every number is PSNR in dB to the uncached pictures of the same noise and steps: mean / mean of the worst 5%.
Plans are calibrated on seeds 0, 1, ... and drawn on seeds from 1000. Prints Markdown; --out writes it, too.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fxcache
from fxcache import CacheConfig, CachedTransformer, Plan, TaylorSeer, embedded
from fxcache.benchmark.solvers import exchanged
from fxcache.calibration.player import Player
from fxcache.calibration.results import psnr, quality
from fxcache.ir.settings import same_graph

BUDGETS = (1.5, 2.0, 2.5, 3.0, 4.0)
FIRST_TEST = 1000
BATCH = 20  # pictures drawn together
RUN = 3  # pictures of a calibration run
Draw = Callable[..., Tensor]
SOLVERS = {"DPM++ 2M": "dpm++", "UniPC": "unipc"}


@dataclass(frozen=True)
class Subject:
    """A model, and how pictures are drawn with something in its place.

    draw: `draw(model, seeds, steps, guidance, solver)`, one picture a seed; solver None is its own sampler.
    solvers: others, by name.
    """

    name: str
    model: nn.Module
    draw: Draw
    solvers: tuple[str, ...]


def embedded_subject() -> Subject:
    def draw(
        model: nn.Module, seeds: Sequence[int], steps: int, guidance: float, solver: str | None
    ) -> Tensor:
        pipe = embedded.load_pipeline(model)
        if solver is not None:
            pipe.scheduler = exchanged(pipe.scheduler, SOLVERS[solver])
        labels = [seed % 10 for seed in seeds]
        return embedded.sample(pipe, labels, seeds=seeds, num_inference_steps=steps, guidance_scale=guidance)

    return Subject("embedded", embedded.load_transformer(), draw, ("DPM++ 2M", "UniPC"))


def emoji_subject() -> Subject:
    emoji = importlib.import_module("bench.emoji_pixart")

    def draw(
        model: nn.Module, seeds: Sequence[int], steps: int, guidance: float, solver: str | None
    ) -> Tensor:
        named = "dpm++" if solver is None else SOLVERS[solver]
        found: Tensor = emoji.sample(model, seeds, steps=steps, guidance=guidance, scheduler=named)
        return found

    return Subject("emoji_pixart", emoji.load(), draw, ("DPM++ 2M", "UniPC"))


SUBJECTS = {"embedded": embedded_subject, "emoji_pixart": emoji_subject}


@dataclass(frozen=True)
class Cell:
    """One number of a table."""

    mean: float
    worst: float
    note: str = ""

    @staticmethod
    def of(values: Sequence[float], note: str = "") -> Cell:
        found = quality(values, len(values))
        return Cell(found.psnr, found.worst, note)

    def __str__(self) -> str:
        return f"{self.mean:.1f}/{self.worst:.1f}" + (f" ({self.note})" if self.note else "")


class Bench:
    """Draws pictures of one subject, steps and guidance, and compares them with the plain ones."""

    def __init__(self, subject: Subject, steps: int, guidance: float, pictures: int) -> None:
        self.subject, self.steps, self.guidance = subject, steps, guidance
        self.seeds = range(FIRST_TEST, FIRST_TEST + pictures)
        self.plain = self.draw(subject.model, self.seeds)

    def draw(
        self, model: nn.Module, seeds: Sequence[int], steps: int | None = None, solver: str | None = None
    ) -> list[Tensor]:
        found = list[Tensor]()
        with torch.no_grad():
            for first in range(0, len(seeds), BATCH):
                batch = seeds[first : first + BATCH]
                if isinstance(model, Player):
                    model.begin()
                found += self.subject.draw(model, batch, steps or self.steps, self.guidance, solver).cpu()
        return found

    def compare(self, model: nn.Module, steps: int | None = None, solver: str | None = None) -> list[float]:
        return psnr(self.plain, self.draw(model, self.seeds, steps, solver))

    def planned(self, plan: Plan) -> Cell:
        return Cell.of(self.compare(Player(self.subject.model, plan)))

    def calibrated(self, budget: float, pictures: int, folder: Path, guidance: float | None = None) -> Plan:
        """A plan fitted to `pictures` of other seeds, at this or another guidance."""
        scale = guidance or self.guidance

        def run(model: nn.Module, i: int) -> Tensor:
            seeds = range(RUN * i, RUN * (i + 1))
            return self.subject.draw(model, seeds, self.steps, scale, None)

        file = folder / f"{self.subject.name}-{self.steps}-{scale:g}-{pictures}.pt"
        plan: Plan = fxcache.calibrate(
            self.subject.model, run=run, runs=pictures // RUN, speedup=budget, held_out=0, checkpoint=file
        )
        return plan


def grid() -> Iterator[CacheConfig]:
    """Settings such as people try: fronts, thresholds, limits of what is cached in a row, with and without a
    forecast."""
    for front, warmup, row, threshold, order in itertools.product(
        (1, 4), (2, 4), (1, 2, 3, 4, 8, 12), (0.08, 0.16, 0.4, 1000.0), (None, 1)
    ):
        yield CacheConfig(
            fn_compute_blocks=front,
            max_warmup_steps=warmup,
            max_continuous_cached_steps=row,
            residual_diff_threshold=threshold,
            forecaster=None if order is None else TaylorSeer(order=order),
        )


def best_of_grid(bench: Bench, pictures: int, budgets: Sequence[float]) -> dict[float, Cell]:
    """The best mean at each budget among settings that save at least as much, on the first `pictures`."""
    seeds = bench.seeds[:pictures]
    measured = list[tuple[float, str, list[float]]]()
    models = list[CachedTransformer]()  # one for each graph
    for config in grid():
        cached = next((m for m in models if same_graph(m.cache_config, config)), None)
        if cached is None:
            cached = fxcache.transform(bench.subject.model, config)
            models.append(cached)
        cached.configure(config)
        cached.reset()
        images = bench.draw(cached, seeds)
        found = cached.stats().contexts.values()
        done = sum(c.flops_done or 0 for c in found)
        saved = sum(c.flops_saved or 0 for c in found)
        if done:
            measured.append(((done + saved) / done, str(config), psnr(bench.plain[:pictures], images)))
    cells = {}
    for budget in budgets:
        fitting = [(sum(v) / len(v), name, v, s) for s, name, v in measured if s >= 0.97 * budget]
        if fitting:
            _, name, values, speedup = max(fitting)
            cells[budget] = Cell.of(values, f"{name}, {speedup:.2f}x")
    return cells


def table(bench: Bench, options: argparse.Namespace, folder: Path) -> str:
    """The rows that are wanted, as Markdown."""
    budgets = options.budgets
    rows = dict[str, dict[float, Any]]()
    model = bench.subject.model
    for budget in budgets:
        steps = max(int(bench.steps / budget), 2)
        if "plan" in options.rows:
            rows.setdefault("plan()", {})[budget] = bench.planned(fxcache.plan(bench.steps, budget))
        if "calibrate" in options.rows:
            plan = bench.calibrated(budget, options.calibration, folder)
            rows.setdefault("calibrate()", {})[budget] = bench.planned(plan)
        if "transfer" in options.rows and bench.guidance != 1:
            plan = bench.calibrated(budget, options.calibration, folder, guidance=1.0)
            rows.setdefault("calibrate() at guidance 1", {})[budget] = bench.planned(plan)
        if "fewer" in options.rows:
            rows.setdefault("fewer plain steps", {})[budget] = Cell.of(bench.compare(model, steps))
        if "solvers" in options.rows:
            for solver in bench.subject.solvers:
                cell = Cell.of(bench.compare(model, steps, solver))
                rows.setdefault(f"as many steps of {solver}", {})[budget] = cell
    if "grid" in options.rows:
        name = f"best of {len(list(grid()))} cache settings ({options.grid_pictures} pictures)"
        rows[name] = dict(best_of_grid(bench, options.grid_pictures, budgets))
    head = f"{bench.subject.name}, {bench.steps} steps, guidance {bench.guidance:g}"
    lines = [
        f"| {head} | " + " | ".join(f"{b:g}x" for b in budgets) + " |",
        "| --- " * (len(budgets) + 1) + "|",
    ]
    for name, cells in rows.items():
        lines.append(f"| {name} | " + " | ".join(str(cells.get(b, "-")) for b in budgets) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    options = _parse()
    torch.set_num_threads(1)
    subject = SUBJECTS[options.model]()
    options.folder.mkdir(parents=True, exist_ok=True)
    text = ""
    for steps, guidance in itertools.product(options.steps, options.guidance):
        begin = time.perf_counter()
        bench = Bench(subject, steps, guidance, options.pictures)
        found = table(bench, options, options.folder)
        text += f"{found}\n{options.pictures} pictures, {time.perf_counter() - begin:.0f} s\n\n"
        print(found, flush=True)
        if options.out is not None:
            options.out.write_text(text)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.plans", description=__doc__)
    parser.add_argument("--model", choices=sorted(SUBJECTS), default="embedded")
    parser.add_argument("--steps", type=int, nargs="+", default=[28, 50])
    parser.add_argument("--budgets", type=float, nargs="+", default=list(BUDGETS))
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0])
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--grid-pictures", type=int, default=20)
    parser.add_argument("--calibration", type=int, default=24, help="pictures to fit to")
    rows = ["plan", "calibrate", "transfer", "fewer", "solvers", "grid"]
    parser.add_argument("--rows", nargs="+", choices=rows, default=rows)
    parser.add_argument("--folder", type=Path, default=Path("plans"), help="for records of plain runs")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
