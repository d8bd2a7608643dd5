"""Train the embedded transformer: 1666 steps of 64 pictures, about 42 minutes on two cores.

    python -m bench.fashion_flux.train --output out

Data-parallel CPU processes of one thread each: at this width one process with two threads gains
little. The weights written are an exponential moving average, in float16.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from diffusers.models import FluxTransformer2DModel
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from fxcache.embedded import to_latents

from .data import DEFAULT_DIRECTORY, load_split, shuffled_batches, to_unit
from .flow import draw_example, flow_loss
from .network import is_block_matrix, new_optimizers, new_transformer

WARMUP_STEPS = 40
HOLD = 0.3
EMA_DECAY = 0.99
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Run:
    """What to train: `batch` pictures a step, over all processes together."""

    data: Path
    output: Path
    steps: int
    batch: int
    processes: int
    muon_rate: float
    adam_rate: float
    log_every: int


@dataclass(frozen=True)
class Record:
    """One line of the log; the loss is that process 0 saw on average since the last line."""

    step: int
    loss: float
    seconds: float


def main() -> None:
    run = _parse()
    run.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as rendezvous:
        mp.spawn(_work, (run, f"file://{rendezvous}/store"), nprocs=run.processes)


def _work(rank: int, run: Run, rendezvous: str) -> None:
    """One process of the data-parallel training."""
    torch.set_num_threads(1)
    torch.manual_seed(0)  # the same initial weights everywhere
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=run.processes)
    try:
        average = _train(rank, run)
        if rank == 0:
            average.half().save_pretrained(run.output / "transformer")
    finally:
        dist.destroy_process_group()


def _train(rank: int, run: Run) -> FluxTransformer2DModel:
    """Train for `run.steps` steps; the moving average of the weights."""
    model = new_transformer().train()
    average = AveragedModel(model, avg_fn=_average)
    parallel = DistributedDataParallel(model)
    optimizers = new_optimizers(
        model, run.muon_rate, run.adam_rate, lambda step: rate_factor(step, run.steps), is_block_matrix
    )
    generator = torch.Generator().manual_seed(100 + rank)
    split = load_split(run.data, "train")
    batches = shuffled_batches(split, run.batch // run.processes, generator)

    start, losses = time.monotonic(), []
    for step in range(1, run.steps + 1):
        images, labels = next(batches)
        loss = flow_loss(parallel, draw_example(to_latents(to_unit(images)), labels, generator))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizers.step()
        average.update_parameters(model)
        losses.append(loss.item())
        if rank == 0 and (step % run.log_every == 0 or step == run.steps):
            _log(Record(step, sum(losses) / len(losses), time.monotonic() - start))
            losses.clear()
    return cast(FluxTransformer2DModel, average.module)


def rate_factor(step: int, steps: int) -> float:
    """Learning rate by step, 0 to 1: linear warmup, then held, then linear to zero."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    decay = min(1.0, max(0.0, (1 - step / steps) / (1 - HOLD)))
    return warmup * decay


def _average(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """Exponential moving average whose decay grows from 0.1, so the start is soon forgotten."""
    decay = min(EMA_DECAY, (1 + int(count)) / (10 + int(count)))
    return average.lerp(current, 1 - decay)


def _log(record: Record) -> None:
    print(json.dumps(asdict(record)), flush=True)


def _parse() -> Run:
    parser = argparse.ArgumentParser(description="Train the embedded transformer.")
    parser.add_argument("--data", type=Path, default=DEFAULT_DIRECTORY)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1666)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=1.5e-3)
    parser.add_argument("--log-every", type=int, default=25)
    return Run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
