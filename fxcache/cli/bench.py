"""`fxcache bench`: the DrawBench benchmark as three commands."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from .common import ULYSSES
from .look import JSON, Commands, aside, print_json
from .models import DEVICE, named_values

FOLDER = click.Path(path_type=Path)


@click.group(cls=Commands)
def bench() -> None:
    """The DrawBench benchmark: run settings, measure pictures, write the report."""


@bench.command()
@click.option(
    "--sweep", default="default", show_default=True, help="default, taylorseer, plans, or a YAML file."
)
@click.option(
    "--model",
    default="embedded",
    show_default=True,
    help="embedded, a diffusers pipeline folder, or module:function.",
)
@click.option(
    "--prompts", type=FOLDER, help="A prompt a line (.txt, .csv, .jsonl); the embedded model has its own."
)
@click.option(
    "--seeds", default=1, show_default=True, help="Pictures of each prompt, each with its own seed."
)
@click.option(
    "--first-seed", default=0, show_default=True, help="Seed of the first picture; picture i has seed + i."
)
@click.option("--steps", default=50, show_default=True, help="Denoising steps.")
@click.option("--batch", type=int, help="Pictures a call: 1 unless the model is embedded, then 10.")
@click.option("--out", required=True, type=FOLDER, help="Folder of the run.")
@click.option("--resume", is_flag=True, help="Go on with a run that was interrupted.")
@click.option("--device", type=DEVICE, help="Default: the GPU of this process, else the CPU.")
@click.option("--dtype", help="bfloat16, float16, float32. Default: the weights' own.")
@click.option(
    "--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="Argument of the pipeline's call."
)
@ULYSSES
@JSON
def run(out: Path, resume: bool, as_json: bool, **options: Any) -> None:
    """Draw every prompt with every setting; say what each cost.

    Share the work: torchrun --nproc-per-node 2 --no-python fxcache bench run ...; with --ulysses 2 two of the
    processes draw each picture together.
    """
    from ..benchmark.folder import RunFolder
    from ..benchmark.sharing import Share
    from ..benchmark.start import RunOptions, start

    arguments = named_values(options.pop("arguments"))
    with aside(as_json):
        start(RunOptions(out=out, resume=resume, arguments=arguments, **options))
    if as_json and Share.of_environment().process == 0:
        print_json({"run": str(out), **RunFolder(out).about()})


@bench.command()
@click.option("--run", "root", required=True, type=FOLDER, help="Folder of a run.")
@click.option("--clip-model", type=FOLDER, help="Folder of a CLIP model, for the CLIP score.")
@click.option("--image-reward", type=FOLDER, help="Folder with ImageReward.pt and med_config.json.")
@click.option(
    "--image-reward-python", type=FOLDER, help="Python of the environment that has image-reward installed."
)
@click.option("--lpips", type=click.Choice(["alex", "vgg", "squeeze"]), help="LPIPS with this network.")
@click.option("--device", type=DEVICE, help="Default: the GPU, else the CPU.")
@JSON
def metrics(root: Path, as_json: bool, **options: Any) -> None:
    """Compare the pictures of a run with the uncached ones and with the prompts."""
    from ..benchmark.folder import RunFolder
    from ..benchmark.measure import MetricOptions, measure

    with aside(as_json):
        measure(MetricOptions(root=root, **options))
    if as_json:
        print_json(RunFolder(root).metrics())


@bench.command()
@click.option("--run", "root", required=True, type=FOLDER, help="Folder of a run.")
@JSON
def report(root: Path, as_json: bool) -> None:
    """Write a run's tables, plots, picture strips and HTML page into its report/ folder."""
    from ..benchmark.folder import RunFolder
    from ..benchmark.report import report as write
    from ..benchmark.results import load_results

    with aside(as_json):
        write(root)
    if as_json:
        rows = load_results(RunFolder(root)).rows
        print_json([{"setting": r.name, "seconds": r.seconds, "flops": r.flops, **r.values} for r in rows])


@bench.command()
@JSON
def document(as_json: bool) -> None:
    """Re-derive the DrawBench document: the mean cached steps that its TFLOPs imply, and their limit."""
    from ..benchmark.document import derive, table

    found = derive()
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        click.echo(table(found))
