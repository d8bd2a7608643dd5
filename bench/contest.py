"""Measures contenders alike: what each step costs, what it holds, how long it takes, how it draws."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.contenders import Contender, compiled
from bench.stages import Stage
from fxcache.runtime.flops import CPU_ATTENTION

PICTURES = 10  # of a round, drawn together
MIB = 1024**2


@dataclass
class Entry:
    """A contender and what was seen of it.

    step_flops: of every step, for all pictures. held: bytes alive at the last step beyond what was
    before the first. breaks, graphs: of torch.compile. error: why it could not be run, if so.
    """

    contender: Contender
    stage: Stage
    steps: int
    pipe: DiffusionPipeline | None = None
    step_flops: list[int] = field(default_factory=list)
    held: int = 0
    breaks: int = 0
    graphs: int = 0
    compile_seconds: float = 0.0
    seconds: list[float] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    error: str | None = None

    def cached_steps(self, plain_step: float) -> tuple[int, ...]:
        """Steps that cost clearly less than a plain one."""
        return tuple(i for i, flops in enumerate(self.step_flops) if flops < 0.95 * plain_step)

    @property
    def latency(self) -> float:
        """Seconds of the processor a picture, the median of the rounds."""
        return statistics.median(self.seconds) / PICTURES


def enter(contender: Contender, stage: Stage, steps: int, compile: bool) -> Entry:
    """Build a contender and look at it once, eagerly, then compile and warm it up."""
    entry = Entry(contender, stage, contender.steps or steps)
    try:
        entry.pipe = contender.build(stage)
        before = _live_bytes()  # before any drawing: some caches keep what they held after the last one
        _draw(entry, seed=0)  # hooks and captures settle before anything is counted
        _count(entry, before)
        if compile:
            _compile(entry)
    except Exception as error:  # a peer that cannot do this is a result, not a failure of the script
        entry.error = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
    return entry


def race(entries: Sequence[Entry], rounds: int) -> None:
    """Draw in turns: in every round each contender once, from the same noise.

    Time is the process's: on one thread it is what the drawing took, whatever else the machine does.
    """
    torch.set_num_threads(1)
    for number in range(rounds):
        shift = number % len(entries)
        for entry in [*entries[shift:], *entries[:shift]]:
            begin = time.process_time()
            image = _draw(entry, seed=number)
            entry.seconds.append(time.process_time() - begin)
            entry.images.append(image)


def psnr(entry: Entry, reference: Entry) -> tuple[float, float]:
    """Decibels to the reference's pictures: mean, and mean of the worst twentieth."""
    error = (torch.cat(entry.images) - torch.cat(reference.images)).square().mean((1, 2, 3))
    decibels = (10 * (4 / error.clamp(min=1e-12)).log10()).sort().values
    return decibels.mean().item(), decibels[: max(1, len(decibels) // 20)].mean().item()


def _draw(entry: Entry, seed: int) -> Tensor:
    assert entry.pipe is not None
    return entry.stage.draw(entry.pipe, range(seed * PICTURES, (seed + 1) * PICTURES), entry.steps)


def _count(entry: Entry, before: int) -> None:
    """What each call of the model costs: pipelines differ in the callbacks that they have."""
    counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
    totals = [0]

    def note(*_: object) -> None:
        totals.append(int(counter.get_total_flops()))
        if len(totals) > entry.steps:
            entry.held = _live_bytes() - before

    assert entry.pipe is not None
    with entry.pipe.transformer.register_forward_hook(note), counter:
        _draw(entry, seed=0)
    entry.step_flops = [after - at for at, after in itertools.pairwise(totals)]
    if len(entry.step_flops) != entry.steps:
        raise RuntimeError(f"{len(entry.step_flops)} calls of the model in {entry.steps} steps")


def _live_bytes() -> int:
    gc.collect()
    storages = {}
    for value in gc.get_objects():
        if type(value) in (torch.Tensor, torch.nn.Parameter):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _compile(entry: Entry) -> None:
    counters = torch._dynamo.utils.counters
    torch._dynamo.config.recompile_limit = 256  # contenders share code; none may starve another
    torch._dynamo.config.accumulated_recompile_limit = 4096
    assert entry.pipe is not None
    breaks, graphs = sum(counters["graph_break"].values()), counters["stats"]["unique_graphs"]
    begin = time.perf_counter()
    compiled(entry.pipe)
    _draw(entry, seed=0)
    entry.compile_seconds = time.perf_counter() - begin
    entry.breaks = sum(counters["graph_break"].values()) - breaks
    entry.graphs = counters["stats"]["unique_graphs"] - graphs
