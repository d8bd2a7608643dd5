"""`fxcache tensorrt-report`: which operators would run in TensorRT engines, before renting a GPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
from rich.console import Console
from rich.table import Table

from ..errors import FxcacheError

if TYPE_CHECKING:
    from torch import nn

    from ..backends.tensorrt import Coverage

DEFAULT_CONFIG = "F8B0_W8M0MC3_T1O1_R0.12"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@click.command("tensorrt-report")
@click.argument("model")
@click.option("--config", default=DEFAULT_CONFIG, show_default=True, help="Cache setting, in the notation.")
@click.option("--dtype", type=click.Choice(sorted(DTYPES)), default="bf16", show_default=True)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=SHAPE[:DTYPE]",
    help="One tensor of a call, for example hidden_states=1x4096x64 or timestep=1:int64. Repeat it. "
    "Not needed for 'embedded'.",
)
@click.option("--dynamic/--static", default=False, show_default=True, help="Leave sizes open.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def tensorrt_report(
    model: str, config: str, dtype: str, inputs: tuple[str, ...], dynamic: bool, as_json: bool
) -> None:
    """Print, for each stage of MODEL, how many operators an engine takes and what stays in PyTorch.

    MODEL is 'embedded' or the folder of a diffusers transformer (the one with its config.json). Nothing
    is built and no GPU is needed, only torch-tensorrt; weights are not read.
    """
    try:
        loaded, arguments = _embedded(DTYPES[dtype]) if model == "embedded" else _folder(model, dtype, inputs)
        rows = _coverage(loaded, arguments, config, dynamic)
    except FxcacheError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps([_as_dict(row) for row in rows], indent=1))
    else:
        _print(Console(), rows)


def _coverage(model: nn.Module, inputs: dict[str, Any], config: str, dynamic: bool) -> tuple[Coverage, ...]:
    from .. import transform
    from ..backends.tensorrt import TensorRTOptions, coverage_of

    cached = transform(model.requires_grad_(False).eval(), config)
    variant, _ = cached.variant_for(inputs)
    return coverage_of(variant.program, TensorRTOptions(dynamic=dynamic))


def _embedded(dtype: torch.dtype) -> tuple[nn.Module, dict[str, Any]]:
    from ..embedded import load_transformer

    sizes = {
        "hidden_states": (2, 49, 16),
        "encoder_hidden_states": (2, 2, 16),
        "pooled_projections": (2, 16),
        "timestep": (2,),
        "img_ids": (49, 3),
        "txt_ids": (2, 3),
    }
    inputs = {name: torch.zeros(size, dtype=dtype) for name, size in sizes.items()}
    return load_transformer(dtype), inputs


def _folder(path: str, dtype: str, inputs: tuple[str, ...]) -> tuple[nn.Module, dict[str, Any]]:
    import diffusers

    file = Path(path) / "config.json"
    if not file.is_file():
        raise click.BadParameter(f"{file} does not exist; give the folder of a diffusers transformer")
    if not inputs:
        raise click.UsageError("give the tensors of one call: --input NAME=SHAPE, once for each")
    fields = json.loads(file.read_text())
    kind = getattr(diffusers, str(fields.get("_class_name")), None)
    if kind is None:
        raise click.BadParameter(f"{file} names no class of the installed diffusers")
    model = kind.from_config(fields).to(DTYPES[dtype])
    return model, dict(_tensor(text, DTYPES[dtype]) for text in inputs)


def _tensor(text: str, dtype: torch.dtype) -> tuple[str, torch.Tensor]:
    name, _, rest = text.partition("=")
    shape, _, kind = rest.partition(":")
    try:
        sizes = tuple(int(s) for s in shape.split("x") if s)
        return name, torch.zeros(sizes, dtype=getattr(torch, kind) if kind else dtype)
    except (ValueError, AttributeError, TypeError) as error:
        raise click.BadParameter(
            f"{text!r} is not NAME=SHAPE[:DTYPE], as in hidden_states=1x64x16"
        ) from error


def _as_dict(row: Coverage) -> dict[str, Any]:
    return {
        "stage": row.stage,
        "engines": row.engines,
        "operators_in_engines": row.in_engines,
        "left_in_pytorch": dict(row.leftovers),
        "beside_by_design": dict(row.beside),
        "weight_bytes": row.weights,
        "repeated_weight_bytes": row.repeated,
    }


def _print(console: Console, rows: Sequence[Coverage]) -> None:
    table = Table(title="TensorRT coverage by stage (nothing was built or run)")
    for heading in ("stage", "engines", "operators in engines", "left in PyTorch", "weights"):
        table.add_column(heading, justify="left" if heading in ("stage", "left in PyTorch") else "right")
    for row in rows:
        left = "\n".join(f"{name}: {why}" for name, why in row.leftovers.items()) or "none"
        table.add_row(row.stage, str(row.engines), str(row.in_engines), left, f"{row.weights / 2**20:.1f} MB")
    console.print(table)
    beside = sum(sum(row.beside.values()) for row in rows)
    console.print(
        f"Beside the engines, by design: {beside} small operators (the clock and other float64, writes to "
        "the state). The conditional is an `if` on the host. The PyTorch model keeps its weights, too.",
        highlight=False,
    )
    repeated = sum(row.repeated for row in rows)
    if repeated:
        console.print(f"{repeated / 2**20:.1f} MB of weights are in more than one engine.", highlight=False)
    full = all(row.full for row in rows)
    console.print("Every stage is one engine." if full else "Some stages are cut up; see above.")
