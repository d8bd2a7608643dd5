"""`fxcache compile` and `fxcache export`: the embedded model through the compiler, or into a package."""

from __future__ import annotations

import time
from pathlib import Path

import click
from rich.console import Console

from ..backends.inductor import MODES, Mode
from ..errors import FxcacheError
from .common import DEFAULT_CONFIG, Sampler, compare, read_config


@click.command("compile")
@click.option("--config", default=DEFAULT_CONFIG, show_default=True, help="Cache setting, in the notation.")
@click.option("--mode", default="fused", show_default=True, type=click.Choice(MODES))
@click.option("--steps", default=28, show_default=True, help="Denoising steps.")
@click.option("--out", default="samples.png", show_default=True, type=click.Path(path_type=Path))
def compile_command(config: str, mode: Mode, steps: int, out: Path) -> None:
    """Compile the embedded model with its cache and sample with it."""
    from .. import compile, embedded, transform

    console = Console(width=120)
    try:
        cached = compile(transform(embedded.load_transformer(), read_config(config, steps)), mode=mode)
    except FxcacheError as error:
        raise click.ClickException(str(error)) from error
    sampler = Sampler(steps, guidance=2.0)
    begin = time.perf_counter()
    with console.status(f"compiling ({mode}); the first steps take a minute or two"):
        sampler.draw(cached)
    console.print(f"compiled in {time.perf_counter() - begin:.1f} s", highlight=False)
    compare(console, sampler, cached, out)


@click.command("export")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--config", default=DEFAULT_CONFIG, show_default=True, help="Cache setting, in the notation.")
@click.option("--batch", default=10, show_default=True, help="Pictures at once that the sizes start from.")
def export_command(path: Path, config: str, batch: int) -> None:
    """Write the embedded model with its cache as an AOTInductor package.

    `fxcache sample --package PATH` runs it.
    """
    from .. import embedded, export, transform

    console = Console(width=120)
    begin = time.perf_counter()
    try:
        cached = transform(embedded.load_transformer(), read_config(config, steps=1))
        with console.status("exporting and compiling; this takes some minutes"):
            export(cached, path, embedded.example_inputs(batch))
    except FxcacheError as error:
        raise click.ClickException(str(error)) from error
    size = path.stat().st_size / 2**20
    console.print(f"wrote {path} ({size:.1f} MiB) in {time.perf_counter() - begin:.0f} s", highlight=False)
