"""`fxcache sample`: draw pictures with and without the cache and say what it did."""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch
from rich.console import Console

from ..config import CacheConfig
from ..errors import FxcacheError

DEFAULT_CONFIG = "F1B0_W4M0MC3_T1O1_R0.12"


@click.command()
@click.option("--config", default=DEFAULT_CONFIG, show_default=True, help="Cache setting, in the notation.")
@click.option("--steps", default=28, show_default=True, help="Denoising steps.")
@click.option("--guidance", default=2.0, show_default=True, help="Classifier-free guidance scale.")
@click.option("--out", default="samples.png", show_default=True, type=click.Path(path_type=Path))
def sample(config: str, steps: int, guidance: float, out: Path) -> None:
    """Sample the embedded trained FLUX, plain and cached, and compare.

    Writes one picture: the plain pictures above, the cached ones below.
    """
    console = Console()
    try:
        settings = CacheConfig.from_string(config).for_steps(steps)
    except FxcacheError as error:
        raise click.ClickException(str(error)) from error
    run(console, settings, steps, guidance, out)


def run(console: Console, config: CacheConfig, steps: int, guidance: float, out: Path) -> None:
    """Sample both ways in one process and report."""
    from .. import embedded, transform

    labels = list(range(len(embedded.CLASS_NAMES)))
    pipe = embedded.load_pipeline()
    plain_model = pipe.transformer
    cached = transform(plain_model, config)

    def draw(model: torch.nn.Module) -> tuple[torch.Tensor, float]:
        pipe.transformer = model
        begin = time.perf_counter()
        images = embedded.sample(pipe, labels, num_inference_steps=steps, guidance_scale=guidance)
        return images, time.perf_counter() - begin

    with console.status("capturing and warming up"):
        draw(cached)
        draw(plain_model)
    with console.status("sampling, plain"):
        plain, plain_seconds = draw(plain_model)
    with console.status(f"sampling, {config}"):
        images, cached_seconds = draw(cached)
    embedded.grid(torch.cat((plain, images))).save(out)
    error = (plain - images).clamp(-2, 2).square().mean().item()
    psnr = float("inf") if error == 0 else 10 * torch.log10(torch.tensor(4 / error)).item()
    console.print(str(cached.stats()), highlight=False)
    console.print(
        f"plain {plain_seconds:.2f} s, cached {cached_seconds:.2f} s ({plain_seconds / cached_seconds:.2f}x); "
        f"PSNR to plain {psnr:.1f} dB; wrote {out} (above plain, below cached)",
        highlight=False,
    )
