"""`fxcache calibrate`: fit a plan to a model and its sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .look import JSON, aside, print_json, say
from .models import DEVICE, named_values

FILE = click.Path(path_type=Path)


@click.command()
@click.option(
    "--model",
    default="embedded",
    show_default=True,
    help="embedded, a diffusers pipeline folder, or module:function.",
)
@click.option(
    "--prompts",
    type=FILE,
    help="8 or so, a line each (.txt, .csv, .jsonl); the embedded model has its own.",
)
@click.option("--runs", type=int, help="How many pictures are drawn; default: one for each prompt.")
@click.option("--steps", default=28, show_default=True, help="Denoising steps.")
@click.option(
    "--speedup",
    "speedups",
    multiple=True,
    type=float,
    help="Times fewer FLOPs; several for a frontier. [2.5]",
)
@click.option("--psnr", type=float, help="In place of a speedup: the fastest plan of so many dB.")
@click.option(
    "--config",
    help="In place of a plan: find the threshold of this cache setting, and the numbers of its policy.",
)
@click.option("--search/--no-search", default=True, help="Search the schedule, or take that of a formula.")
@click.option("--checkpoint", type=FILE, help="Keep the plain runs here: an interrupted calibration goes on.")
@click.option("--device", type=DEVICE, help="Default: the GPU, else the CPU.")
@click.option("--dtype", help="bfloat16, float16, float32. Default: the weights' own.")
@click.option(
    "--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="Argument of the pipeline's call."
)
@click.option("--out", type=FILE, help="[plan.json; with --config setting.yaml]")
@JSON
def calibrate(
    out: Path | None,
    speedups: tuple[float, ...],
    psnr: float | None,
    config: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit a plan: which steps to compute, and what the others are made of.

    Writes the plan, one for each speedup, and beside it a picture: plain, planned, and their difference. With
    --config it writes a setting (YAML) that has a threshold for the speedup.
    Use it wherever a command takes --config, or with fxcache.transform(pipe, "plan.json").
    """
    from ..benchmark.calibration import CalibrationOptions, made_by, run_calibration

    if speedups and psnr is not None:
        raise click.UsageError("give --speedup or --psnr, not both")
    arguments = named_values(options.pop("arguments"))
    wanted = () if psnr is not None else speedups or (2.5,)
    named = out or Path("plan.json" if config is None else "setting.yaml")
    asked = CalibrationOptions(
        out=named, speedups=wanted, psnr=psnr, config=config, arguments=arguments, **options
    )

    with aside(as_json):
        made = run_calibration(asked)
    if as_json:
        files = {str(file): used.to_dict() for file, used in made.files.items()}
        print_json({"files": files, "drawn": list(map(str, made.drawn)), "made_by": made_by(asked)})
        return
    click.echo(made.text)
    for file in (*made.files, *made.drawn):
        say(f"wrote {file}")
    say(f"made by: {made_by(asked)}")
