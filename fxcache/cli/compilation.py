"""`fxcache compile` and `fxcache export`: a model through the compiler, or into a package."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..backends.gpus import GPUS
from ..backends.modes import MODES, Mode
from .common import CONFIG_HELP, DEFAULT_CONFIG, SIZES, sizes_of, with_sizes
from .drawing_options import drawing, with_drawing
from .look import JSON, messages, print_json, quiet, say, say_sizes
from .models import (
    DEVICE,
    DTYPES,
    INPUT_HELP,
    Device,
    dtype_of,
    load_weights,
    model_class,
    named_values,
    tensors,
)

if TYPE_CHECKING:
    from torch import nn

    from ..preparation.sizes import Sizes
    from ..runtime.cached_transformer import CachedTransformer


@click.command("compile")
@click.option("--config", default=DEFAULT_CONFIG, show_default=True, help=CONFIG_HELP)
@click.option("--mode", default="fused", show_default=True, type=click.Choice(MODES))
@with_drawing
def compile_command(config: str, mode: Mode, **options: Any) -> None:
    """Compile a model with its cache, sample with it as `fxcache sample` does, and say which sizes it serves.

    The first run compiles: minutes for a large model.
    """
    from .. import compile
    from ..preparation.served import served
    from .drawing import draw

    made: list[CachedTransformer] = []

    def finish(cached: CachedTransformer) -> CachedTransformer:
        made.append(compile(cached, mode=mode))
        return made[-1]

    draw(drawing("compile", (config,), options, [("--config", config), ("--mode", mode)], finish))
    for cached in () if options["as_json"] else made:
        for one in cached.specializations():
            say_sizes(f"{type(cached.original).__name__} serves", served(one.program.capture))


@click.command("export")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--model",
    default="embedded",
    show_default=True,
    help="embedded, a diffusers pipeline folder, or that of a transformer (with --input).",
)
@click.option("--component", help="Which denoiser of a pipeline that has several: transformer_2.")
@with_sizes(*SIZES)
@click.option("--input", "inputs", multiple=True, metavar="NAME=SHAPE[:DTYPE]", help=INPUT_HELP)
@click.option(
    "--arg",
    "constants",
    multiple=True,
    metavar="NAME=VALUE",
    help="Another argument, fixed in the package: of the transformer, return_dict=false, or of the pipeline.",
)
@click.option("--dtype", type=click.Choice(sorted(DTYPES)), default="fp32", show_default=True)
@click.option("--device", type=Device(absent=True), default="cpu", show_default=True)
@click.option(
    "--arch",
    type=click.Choice(sorted(GPUS)),
    help="With --device cuda: compile for a GPU of this kind, on a machine without one.",
)
@click.option("--config", default=DEFAULT_CONFIG, show_default=True, help=CONFIG_HELP)
@click.option(
    "--static", is_flag=True, help="Fix all sizes; by default they stay open where the model allows."
)
@JSON
def export_command(
    path: Path,
    model: str,
    component: str | None,
    inputs: tuple[str, ...],
    constants: tuple[str, ...],
    dtype: str,
    device: str,
    arch: str | None,
    config: str,
    static: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Write a model with its cache as an AOTInductor package, and say which sizes that will serve.

    Of a pipeline the call is caught that it makes for the sizes given. `fxcache.load(PATH)` runs the
    package, and so does `fxcache sample --package PATH`.
    """
    from .. import export, transform
    from ..config import as_config
    from ..package.manifest import read_manifest

    quiet()
    begin = time.perf_counter()
    settings, device = as_config(config), _where_to_export(device, arch)
    with messages().status("loading"):
        loaded, example = _loaded(model, component, inputs, constants, dtype, device, sizes_of(options))
    cached = transform(loaded, settings)
    with messages().status("exporting and compiling; this takes some minutes"):
        export(cached, path, example, dynamic=not static, arch=arch)
    manifest, seconds, size = read_manifest(path), time.perf_counter() - begin, path.stat().st_size
    sizes = {entry.name: [*entry.shape] for entry in manifest.inputs}
    if as_json:
        found = {"path": str(path), "bytes": size, "seconds": seconds, "setting": manifest.notation}
        print_json({**found, "inputs": sizes, "conditions": list(manifest.conditions)})
        return
    say_sizes("The package serves", sizes)
    if manifest.conditions:
        say(f"within {len(manifest.conditions)} conditions, which --json prints")
    say(f"wrote {path} ({size / 2**20:.1f} MiB) in {seconds:.0f} s")


def _loaded(
    model: str,
    component: str | None,
    inputs: Sequence[str],
    constants: Sequence[str],
    dtype: str,
    device: str,
    sizes: Sizes,
) -> tuple[nn.Module, dict[str, Any]]:
    """The model with its weights, and a call of it."""
    import torch

    from .. import embedded
    from ..preparation.loaded import loaded

    if model == "embedded":
        sizes.arguments("The embedded model", {"num_images_per_prompt": ...})
        example = embedded.example_inputs(batch=sizes.batch or 10)
        kind = dtype_of(dtype)
        moved = {n: v.to(device, kind) if isinstance(v, torch.Tensor) else v for n, v in example.items()}
        return embedded.load_transformer(kind).to(device), moved
    if (Path(model) / "model_index.json").is_file():
        if inputs:
            raise click.UsageError(f"{model} is a pipeline, which makes its calls itself: leave out --input")
        return loaded(Path(model), component, sizes, named_values(constants), dtype_of(dtype), device)
    if component is not None or any(vars(sizes).values()):
        raise click.UsageError("--component and sizes are of a pipeline: give its folder, or --input instead")
    model_class(Path(model))  # that there is none is said before anything else
    called = {**tensors(inputs, dtype, device), **named_values(constants)}
    return load_weights(Path(model), dtype, device), called


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
