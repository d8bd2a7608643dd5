"""Measure the emoji model without a cache: `python -m bench.emoji_pixart.evaluate`.

Prints, for a scheduler, how near few steps come to many (PSNR over the whole set of pictures), and
how often a picture is most like an emoji of the class that was asked for.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from .conditioning import CLASS_NAMES
from .data import DEFAULT_FONT, DEFAULT_LIST, Emoji, load_emoji
from .model import DIRECTORY, load
from .pictures import sheet
from .pipeline import SchedulerName, sample


@dataclass(frozen=True)
class Run:
    """What to measure: `pictures` for each number of steps, against `reference` steps."""

    transformer: Path
    font: Path
    listing: Path
    pictures: int
    scheduler: SchedulerName
    guidance: float
    steps: Sequence[int]
    reference: int
    sheet: Path | None


def main() -> None:
    run = _parse()
    torch.set_num_threads(1)
    model, emoji = load(run.transformer), load_emoji(run.font, run.listing)
    reference = _draw(run, model, run.reference)
    if run.sheet is not None:
        by_class = reference.unflatten(0, (-1, len(CLASS_NAMES))).transpose(0, 1).flatten(0, 1)
        picture = sheet(by_class, columns=len(reference) // len(CLASS_NAMES), scale=2)
        picture.quantize(64, dither=Image.Dither.NONE).save(run.sheet, optimize=True)
    print("| scheduler | guidance | steps | nearest emoji is of the class | PSNR to reference |")
    print("| --- | --- | --- | --- | --- |")
    for steps in run.steps:
        images = _draw(run, model, steps)
        share, distance = agreement(images, emoji), psnr(images, reference)
        print(
            f"| {run.scheduler} | {run.guidance:g} | {steps} | {share:.1%} | {distance:.1f} dB |", flush=True
        )


def agreement(images: Tensor, emoji: Emoji) -> float:
    """Share of images [N,3,32,32], classes 0..9 in turn, whose nearest emoji by pixels is of their class."""
    nearest = torch.cdist(images.flatten(1), emoji.images.flatten(1) / 255).argmin(dim=1)
    asked = torch.arange(len(images)) % len(CLASS_NAMES)
    return (emoji.labels[nearest] == asked).float().mean().item()


def psnr(images: Tensor, reference: Tensor) -> float:
    """Peak signal to noise ratio of images in [0,1], in dB."""
    return -10 * (images - reference).square().mean().log10().item()


def _draw(run: Run, model: nn.Module, steps: int) -> Tensor:
    """Pictures of seeds 0, 1, 2 ..., classes in turn."""
    return sample(model, range(run.pictures), steps=steps, scheduler=run.scheduler, guidance=run.guidance)


def _parse() -> Run:
    parser = argparse.ArgumentParser(description="Measure the emoji model without a cache.")
    parser.add_argument("--transformer", type=Path, default=DIRECTORY)
    parser.add_argument("--font", type=Path, default=DEFAULT_FONT)
    parser.add_argument("--listing", type=Path, default=DEFAULT_LIST, help="emoji-test.txt of Unicode")
    parser.add_argument("--pictures", type=int, default=100, help="a multiple of ten")
    parser.add_argument("--scheduler", default="dpm++", help="dpm++, ddim, euler or unipc")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--steps", type=int, nargs="+", default=[14, 20, 28])
    parser.add_argument("--reference", type=int, default=50)
    parser.add_argument("--sheet", type=Path, default=None, help="draw the reference's pictures here")
    return Run(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
