"""Train the embedded classifier: 8 epochs of 60,000 pictures.

    python -m bench.fashion_flux.train_classifier --output out

Writes classifier.safetensors in float16 and prints its accuracy on the test set.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from fxcache.embedded import Agreement, Classifier, agreement

from .data import DEFAULT_DIRECTORY, Split, load_split, shuffled_batches, to_unit

PEAK_RATE = 6e-3
WEIGHT_DECAY = 0.02
LABEL_SMOOTHING = 0.05
LOG_EVERY = 60
TEST_BATCH = 500


@dataclass(frozen=True)
class Run:
    """What to train; `steps` cuts the training short without changing the schedule."""

    data: Path
    output: Path
    epochs: int
    batch: int
    steps: int | None


def main() -> None:
    run = _parse()
    torch.manual_seed(1)
    classifier = train(run, load_split(run.data, "train"))
    run.output.mkdir(parents=True, exist_ok=True)
    _save(classifier, run.output / "classifier.safetensors")
    print(evaluate(classifier, load_split(run.data, "test")))


def train(run: Run, split: Split) -> Classifier:
    """A classifier after `run.epochs` epochs, or `run.steps` batches if that comes first."""
    classifier = Classifier()
    full = run.epochs * (len(split) // run.batch)
    steps = full if run.steps is None else min(run.steps, full)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=full, pct_start=0.2)
    start, batches = time.monotonic(), shuffled_batches(split, run.batch)
    for step in range(1, steps + 1):
        images, labels = next(batches)
        loss = _loss(classifier, augment(to_unit(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % LOG_EVERY == 0 or step == steps:
            print(f"step {step} loss {loss.item():.4f} seconds {time.monotonic() - start:.0f}")
    return classifier.eval()


def evaluate(classifier: Classifier, split: Split) -> Agreement:
    """Accuracy over a whole split."""
    parts = [
        agreement(classifier, to_unit(images), labels)
        for images, labels in zip(split.images.split(TEST_BATCH), split.labels.split(TEST_BATCH), strict=True)
    ]
    return Agreement(
        exact=sum(part.exact for part in parts) / len(parts),
        merged=sum(part.merged for part in parts) / len(parts),
    )


def augment(images: Tensor) -> Tensor:
    """Shift a batch [B,1,28,28] by up to one pixel each way and mirror it half of the time."""
    down, right = torch.randint(0, 3, (2,)).tolist()
    shifted = F.pad(images, (1, 1, 1, 1), value=-1)[:, :, down : down + 28, right : right + 28]
    if torch.rand(()) < 0.5:
        shifted = shifted.flip(3)
    return shifted.contiguous(memory_format=torch.channels_last)


def _loss(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier(images)
    return F.cross_entropy(logits.float(), labels, label_smoothing=LABEL_SMOOTHING)


def _save(classifier: Classifier, path: Path) -> None:
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in classifier.state_dict().items()
    }
    save_file(tensors, path, metadata={"format": "pt"})


def _parse() -> Run:
    parser = argparse.ArgumentParser(description="Train the embedded classifier.")
    parser.add_argument("--data", type=Path, default=DEFAULT_DIRECTORY)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--steps", type=int, default=None, help="stop after N batches")
    return Run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
