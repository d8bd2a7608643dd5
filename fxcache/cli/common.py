"""What the commands on the embedded model share."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from torch import nn

from ..config import CacheConfig, as_config
from ..errors import FxcacheError

DEFAULT_CONFIG = "F1B0_W4M0MC3_T1O1_R0.12"
CONFIG_HELP = "Cache setting in the notation, or a file: of a plan (plan.json), or a setting (setting.yaml)."


def read_config(text: str, steps: int) -> CacheConfig:
    """A config from its notation, or a plan from its file; a mistake becomes one clear line."""
    try:
        return as_config(text).for_steps(steps)
    except FxcacheError as error:
        raise click.ClickException(str(error)) from error


class Sampler:
    """Draws one picture of each class with a given transformer."""

    def __init__(self, steps: int, guidance: float) -> None:
        from .. import embedded

        self.steps = steps
        self.guidance = guidance
        self.pipe = embedded.load_pipeline()
        self.plain = self.pipe.transformer

    def draw(self, transformer: nn.Module) -> tuple[torch.Tensor, float]:
        """Pictures [10, 1, 28, 28] in [-1, 1], and the seconds that they took."""
        from .. import embedded

        self.pipe.transformer = transformer
        begin = time.perf_counter()
        labels = range(len(embedded.CLASS_NAMES))
        images = embedded.sample(
            self.pipe, labels, num_inference_steps=self.steps, guidance_scale=self.guidance
        )
        return images, time.perf_counter() - begin


def compare(console: Console, sampler: Sampler, cached: Any, out: Path) -> None:
    """Sample plain and cached in turn, save both, and report."""
    from .. import embedded

    with console.status("capturing and warming up"):
        sampler.draw(cached)
        sampler.draw(sampler.plain)
    with console.status("sampling"):
        plain, plain_seconds = sampler.draw(sampler.plain)
        images, seconds = sampler.draw(cached)
    embedded.grid(torch.cat((plain, images))).save(out)
    error = (plain - images).square().mean().item()
    psnr = math.inf if error == 0 else 10 * math.log10(4 / error)
    console.print(str(cached.stats()), highlight=False, soft_wrap=True)
    console.print(
        f"plain {plain_seconds:.2f} s, cached {seconds:.2f} s ({plain_seconds / seconds:.2f}x); "
        f"PSNR to plain {psnr:.1f} dB; wrote {out} (above plain, below cached)",
        highlight=False,
        soft_wrap=True,
    )
