"""`fxcache compile` and `fxcache export`: a model through the compiler, or into a package."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console

from ..backends.inductor import MODES, Mode
from ..errors import FxcacheError
from ..runtime.cached_transformer import CachedTransformer
from .common import CONFIG_HELP, DEFAULT_CONFIG, read_config
from .drawing_options import drawing, with_drawing
from .models import DEVICE, DTYPES, INPUT_HELP, load_weights, named_values, tensors


@click.command("compile")
@click.option("--config", default=DEFAULT_CONFIG, show_default=True, help=CONFIG_HELP)
@click.option("--mode", default="fused", show_default=True, type=click.Choice(MODES))
@with_drawing
def compile_command(config: str, mode: Mode, **options: Any) -> None:
    """Compile a model with its cache and sample with it, as `fxcache sample` does.

    The first run compiles: minutes for a large model.
    """
    from .. import compile
    from .drawing import draw

    made: list[CachedTransformer] = []

    def finish(cached: CachedTransformer) -> CachedTransformer:
        made.append(compile(cached, mode=mode))
        return made[-1]

    draw(drawing("compile", (config,), options, [("--config", config), ("--mode", mode)], finish))


@click.command("export")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--model",
    default="embedded",
    show_default=True,
    help="embedded, or the folder of a diffusers transformer.",
)
@click.option("--input", "inputs", multiple=True, metavar="NAME=SHAPE[:DTYPE]", help=INPUT_HELP)
@click.option(
    "--arg",
    "constants",
    multiple=True,
    metavar="NAME=VALUE",
    help="Another argument, fixed in the package, as the pipeline gives it: return_dict=false.",
)
@click.option("--dtype", type=click.Choice(sorted(DTYPES)), default="fp32", show_default=True)
@click.option("--device", type=DEVICE, default="cpu", show_default=True)
@click.option(
    "--config",
    default=DEFAULT_CONFIG,
    show_default=True,
    help=CONFIG_HELP,
)
@click.option(
    "--static", is_flag=True, help="Fix all sizes; by default they stay open where the model allows."
)
def export_command(
    path: Path,
    model: str,
    inputs: tuple[str, ...],
    constants: tuple[str, ...],
    dtype: str,
    device: str,
    config: str,
    static: bool,
) -> None:
    """Write a model with its cache as an AOTInductor package.

    `fxcache.load(PATH)` runs it, and `fxcache sample --package PATH` that of the embedded model.
    """
    from .. import embedded, export, transform

    console = Console(width=120)
    begin = time.perf_counter()
    with console.status("loading"):
        if model == "embedded":
            loaded = embedded.load_transformer(DTYPES[dtype]).to(device)
            example = {
                name: value.to(device, DTYPES[dtype]) if isinstance(value, torch.Tensor) else value
                for name, value in embedded.example_inputs().items()
            }
        else:
            example = {**tensors(inputs, dtype, device), **named_values(constants)}
            loaded = load_weights(Path(model), dtype, device)
    try:
        cached = transform(loaded, read_config(config, steps=1))
        with console.status("exporting and compiling; this takes some minutes"):
            export(cached, path, example, dynamic=not static)
    except FxcacheError as error:
        raise click.ClickException(str(error)) from error
    size = path.stat().st_size / 2**20
    console.print(f"wrote {path} ({size:.1f} MiB) in {time.perf_counter() - begin:.0f} s", highlight=False)
