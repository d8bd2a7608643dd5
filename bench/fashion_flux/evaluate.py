"""Measure the embedded model without a cache: the figures that caches are compared with.

    python -m bench.fashion_flux.evaluate

Prints one JSON line per setting: how often the classifier sees the class asked for, and the PSNR
to the pictures of the full number of steps at the same guidance.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers.models import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from torch import Tensor

from fxcache.embedded import CLASS_NAMES, agreement, load_classifier, load_pipeline, sample

PEAK_TO_PEAK = 2.0  # pictures lie in [-1,1]


@dataclass(frozen=True)
class Setting:
    """How to sample."""

    steps: int
    guidance: float


@dataclass(frozen=True)
class Result:
    """What a setting gives: shares 0 to 1, decibels, seconds per picture."""

    steps: int
    guidance: float
    exact: float
    merged: float
    psnr: float | None
    seconds: float


def main() -> None:
    options = _parse()
    pipe = load_pipeline(_load(options.transformer))
    settings = [Setting(steps, options.guidance) for steps in options.steps]
    reference: Tensor | None = None
    for setting in settings:
        start = time.monotonic()
        images = draw(pipe, options.pictures, options.batch, setting)
        seconds = (time.monotonic() - start) / options.pictures
        found = agreement(load_classifier(), images, labels(options.pictures))
        decibels = None if reference is None else psnr(images, reference).mean().item()
        reference = images if reference is None else reference
        result = Result(setting.steps, setting.guidance, found.exact, found.merged, decibels, seconds)
        print(json.dumps(asdict(result)), flush=True)


def labels(pictures: int) -> Tensor:
    """Labels [pictures], each class equally often."""
    return torch.arange(pictures) % len(CLASS_NAMES)


def draw(pipe: FluxPipeline, pictures: int, batch: int, setting: Setting) -> Tensor:
    """Images [pictures,1,28,28]; picture i always has seed i."""
    parts = [
        sample(
            pipe,
            chosen,
            seeds=range(first, first + len(chosen)),
            num_inference_steps=setting.steps,
            guidance_scale=setting.guidance,
        )
        for first, chosen in zip(range(0, pictures, batch), labels(pictures).split(batch), strict=True)
    ]
    return torch.cat(parts)


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels, [B], of images [B,1,28,28] in [-1,1]."""
    error = (images - reference).square().mean((1, 2, 3)).clamp(min=1e-10)
    return 10 * (PEAK_TO_PEAK**2 / error).log10()


def _load(path: Path | None) -> FluxTransformer2DModel | None:
    return None if path is None else FluxTransformer2DModel.from_pretrained(path).eval()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the embedded model without a cache.")
    parser.add_argument("--transformer", type=Path, default=None, help="a newly trained one")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--steps", type=int, nargs="+", default=[28, 14, 12], help="first: full")
    parser.add_argument("--guidance", type=float, default=1.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
