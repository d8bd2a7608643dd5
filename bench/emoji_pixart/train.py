"""Train the emoji model: an hour of one core's time.

    python -m bench.emoji_pixart.train --output out

The weights written are an exponential moving average, in float16; they are written every few
minutes, so a run that is cut short leaves some too, and `--start` goes on from them. The learning
rate follows the processor time and not the steps, so a run costs what it is said to on any machine.
"""

import argparse
import json
import time
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..fashion_flux.network import new_optimizers
from .data import DEFAULT_FONT, DEFAULT_LIST, Emoji, batches, load_emoji
from .latents import to_latents
from .model import load
from .network import is_block_matrix, new_transformer
from .objective import draw_example, noise_loss

WARMUP_STEPS = 50
EMA_DECAY = 0.995
MAX_GRADIENT_NORM = 1.0


@dataclass(frozen=True)
class Run:
    """What to train: `batch` pictures a step for `minutes` of one core's time.

    The learning rates are held for the share `hold` of it and then fall to zero.
    """

    font: Path
    listing: Path
    output: Path
    start: Path | None
    minutes: float
    hold: float
    batch: int
    muon_rate: float
    adam_rate: float
    log_every: int
    save_every: int


@dataclass(frozen=True)
class Record:
    """One line of the log; the loss is the mean since the last line, the seconds processor time."""

    step: int
    loss: float
    seconds: float


@dataclass(frozen=True)
class Clock:
    """A stretch of processor time that began at `start` and lasts `length`, in seconds."""

    start: float
    length: float

    def seconds(self) -> float:
        return time.process_time() - self.start

    def progress(self) -> float:
        """0 at the start, 1 and more once the time is up."""
        return self.seconds() / self.length


def main() -> None:
    run = _parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    run.output.mkdir(parents=True, exist_ok=True)
    train(run, load_emoji(run.font, run.listing))


def train(run: Run, emoji: Emoji) -> None:
    """Train for `run.minutes`, logging to standard output and writing weights to `run.output`."""
    model = new_transformer().train()
    if run.start is not None:
        model.load_state_dict(load(run.start).state_dict())
    average = AveragedModel(model, avg_fn=_average)
    clock = Clock(start=time.process_time(), length=60 * run.minutes)
    optimizers = new_optimizers(
        model,
        run.muon_rate,
        run.adam_rate,
        lambda step: rate_factor(step, clock.progress(), run.hold),
        is_block_matrix,
    )
    generator = torch.Generator().manual_seed(100)
    losses: list[float] = []
    for step, (images, labels) in enumerate(batches(emoji, run.batch, generator), start=1):
        loss = noise_loss(model, draw_example(to_latents(images / 255), labels, generator))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
        optimizers.step()
        average.update_parameters(model)
        losses.append(loss.item())
        done = clock.progress() >= 1
        if step % run.log_every == 0 or done:
            _log(Record(step, sum(losses) / len(losses), clock.seconds()))
            losses.clear()
        if step % run.save_every == 0 or done:
            _save(cast(nn.Module, average.module), run.output / "transformer")
        if done:
            return


def rate_factor(step: int, progress: float, hold: float) -> float:
    """Learning rate, 0 to 1: linear warmup by steps, then held, then linear to zero by the clock."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    decay = min(1.0, max(0.0, (1 - progress) / (1 - hold)))
    return warmup * decay


def _average(average: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
    """Exponential moving average whose decay grows from 0.1, so the start is soon forgotten."""
    decay = min(EMA_DECAY, (1 + int(count)) / (10 + int(count)))
    return average.lerp(current, 1 - decay)


def _save(model: nn.Module, directory: Path) -> None:
    copy: Any = deepcopy(model)  # training goes on in float32
    copy.half().save_pretrained(directory)


def _log(record: Record) -> None:
    print(json.dumps(asdict(record)), flush=True)


def _parse() -> Run:
    parser = argparse.ArgumentParser(description="Train the emoji model.")
    parser.add_argument("--font", type=Path, default=DEFAULT_FONT)
    parser.add_argument("--listing", type=Path, default=DEFAULT_LIST, help="emoji-test.txt of Unicode")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--start", type=Path, default=None, help="go on from the weights in this folder")
    parser.add_argument("--minutes", type=float, default=60, help="of processor time")
    parser.add_argument("--hold", type=float, default=0.3, help="share of the time at the full rate")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=1.5e-3)
    parser.add_argument("--log-every", type=int, default=25)
    parser.add_argument("--save-every", type=int, default=100)
    return Run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
