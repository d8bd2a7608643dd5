"""`fxcache compile` and `fxcache export`: a model through the compiler, or into a package."""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch
from rich.console import Console

from ..backends.absent_gpu import GPUS
from ..backends.inductor import MODES, Mode
from ..errors import FxcacheError
from .common import CONFIG_HELP, DEFAULT_CONFIG, Sampler, compare, read_config
from .models import DEVICE, DTYPES, INPUT_HELP, Device, load_weights, named_values, tensors


@click.command("compile")
@click.option(
    "--config",
    default=DEFAULT_CONFIG,
    show_default=True,
    help=CONFIG_HELP,
)
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
@click.option("--device", type=Device(absent=True), default="cpu", show_default=True)
@click.option(
    "--arch",
    type=click.Choice(sorted(GPUS)),
    help="With --device cuda: compile for a GPU of this kind, on a machine without one.",
)
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
    arch: str | None,
    config: str,
    static: bool,
) -> None:
    """Write a model with its cache as an AOTInductor package.

    `fxcache.load(PATH)` runs it, and `fxcache sample --package PATH` that of the embedded model.
    """
    from .. import embedded, export, transform

    console = Console(width=120)
    begin = time.perf_counter()
    device = _where_to_export(device, arch)
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
            export(cached, path, example, dynamic=not static, arch=arch)
    except FxcacheError as error:
        raise click.ClickException(str(error)) from error
    size = path.stat().st_size / 2**20
    console.print(f"wrote {path} ({size:.1f} MiB) in {time.perf_counter() - begin:.0f} s", highlight=False)


def _where_to_export(device: str, arch: str | None) -> str:
    """Where the model is loaded: for a GPU of another machine, on the CPU."""
    if arch is None:
        try:
            return DEVICE.convert(device, None, None)
        except click.BadParameter as error:
            more = ", or --arch to build for a GPU of another machine" if device.startswith("cuda") else ""
            raise click.BadParameter(error.message + more, param_hint="--device") from None
    if device not in ("cuda", "cuda:0"):
        raise click.UsageError("--arch is for a package that runs on CUDA: give --device cuda, too")
    return "cpu"
