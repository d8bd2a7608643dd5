"""`fxcache tensorrt-report`: which operators would run in TensorRT engines, before renting a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from .common import CONFIG_HELP, SIZES, sizes_of, with_sizes
from .look import JSON, messages, print_json, quiet, say, table
from .models import DTYPES, INPUT_HELP, dtype_of, given_call

if TYPE_CHECKING:
    from ..backends.tensorrt import Coverage
    from ..preparation.named import Prepared

DEFAULT_CONFIG = "F8B0_W8M0MC3_T1O1_R0.12"


@click.command("tensorrt-report")
@click.argument("model")
@click.option(
    "--config",
    default=DEFAULT_CONFIG,
    show_default=True,
    help=CONFIG_HELP,
)
@with_sizes(*SIZES)
@click.option("--component", help="Which denoiser of a pipeline that has several: transformer_2.")
@click.option("--dtype", type=click.Choice(sorted(DTYPES)), default="bf16", show_default=True)
@click.option("--input", "inputs", multiple=True, metavar="NAME=SHAPE[:DTYPE]", help=INPUT_HELP)
@click.option(
    "--arg",
    "constants",
    multiple=True,
    metavar="NAME=VALUE",
    help="Another argument of the call, as the pipeline gives it: return_dict=false.",
)
@click.option("--dynamic/--static", default=False, show_default=True, help="Leave sizes open.")
@JSON
def tensorrt_report(
    model: str,
    config: str,
    dtype: str,
    inputs: tuple[str, ...],
    constants: tuple[str, ...],
    dynamic: bool,
    component: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Print, for each stage of MODEL, how many operators an engine takes and what stays in PyTorch.

    MODEL is embedded, the folder of a diffusers pipeline or of a transformer, a config.json, or the name of a
    transformer class. Nothing is built and no GPU is needed, only torch-tensorrt; weights are not read.
    """
    from ..preparation.caught import component_of
    from ..preparation.named import prepared

    quiet()
    with messages().status("looking"):
        call = given_call(inputs, constants, dtype)
        found = prepared(model, sizes_of(options), call, dtype_of(dtype))
        named = {one.name: one for one in found}
        rows = _coverage(named[component_of(model, named, component)], config, dynamic)
    if as_json:
        print_json([_as_dict(row) for row in rows])
    else:
        _print(rows)


def _coverage(one: Prepared, config: str, dynamic: bool) -> tuple[Coverage, ...]:
    from .. import transform
    from ..backends.tensorrt import TensorRTOptions, coverage_of
    from ..preparation.named import with_random_weights

    real = with_random_weights(one)
    specialization, _ = transform(real.model, config).specialization_for(real.call, numbers=False)
    return coverage_of(specialization.program, TensorRTOptions(dynamic=dynamic))


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


def _print(rows: Sequence[Coverage]) -> None:
    cells = [
        (
            row.stage,
            "; ".join(f"{name}: {why}" for name, why in row.leftovers.items()) or "none",
            str(row.engines),
            str(row.in_engines),
            f"{row.weights / 2**20:.1f} MB",
        )
        for row in rows
    ]
    columns = ("stage", "left in PyTorch", "engines", "operators", "weights")
    table("TensorRT coverage by stage (nothing was built or run)", columns, cells, left=2)
    beside = sum(sum(row.beside.values()) for row in rows)
    say(
        f"Beside the engines, by design: {beside} small operators (bookkeeping, float64, writes to "
        "the state). The conditional is an `if` on the host. The PyTorch model keeps its weights, too."
    )
    repeated = sum(row.repeated for row in rows)
    if repeated:
        say(f"{repeated / 2**20:.1f} MB of weights are in more than one engine.")
    full = all(row.full for row in rows)
    say("Every stage is one engine." if full else "Some stages are cut up; see above.")
