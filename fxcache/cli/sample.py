"""`fxcache sample`: draw pictures with and without the cache and say what it did."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from .common import CONFIG_HELP, DEFAULT_CONFIG, Sampler, compare, read_config


@click.command()
@click.option(
    "--config",
    default=DEFAULT_CONFIG,
    show_default=True,
    help=CONFIG_HELP,
)
@click.option("--steps", default=28, show_default=True, help="Denoising steps.")
@click.option("--guidance", default=2.0, show_default=True, help="Classifier-free guidance scale.")
@click.option(
    "--package", type=click.Path(path_type=Path), help="Sample with this package (it runs native code)."
)
@click.option("--out", default="samples.png", show_default=True, type=click.Path(path_type=Path))
def sample(config: str, steps: int, guidance: float, package: Path | None, out: Path) -> None:
    """Sample the embedded trained FLUX, plain and cached, and compare.

    Writes one picture: the plain pictures above, the cached ones below.
    """
    from .. import embedded, load, transform
    from ..errors import PackageError

    console = Console(width=120)
    sampler = Sampler(steps, guidance)
    if package is not None:
        try:
            cached = load(package)
        except PackageError as error:
            raise click.ClickException(str(error)) from error
    else:
        cached = transform(embedded.load_transformer(), read_config(config, steps))  # type: ignore[assignment]
    compare(console, sampler, cached, out)
