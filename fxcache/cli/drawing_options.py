"""The options of commands that draw: what, how often, on what, and where to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .drawing import Drawing, Finish

from .common import SIZES, sizes_of, with_sizes
from .look import JSON
from .models import DEVICE, named_values

OUT = click.Path(path_type=Path, file_okay=False)
OPTIONS = (
    click.option(
        "--model", default="embedded", show_default=True, help="embedded, or a diffusers pipeline folder."
    ),
    click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="What to draw; repeat for more."),
    click.option("--steps", type=click.IntRange(1), help="[default: the pipeline's; embedded: 28]"),
    click.option(
        "--seed", type=int, default=0, show_default=True, help="Of the first prompt; the next has one more."
    ),
    click.option("--guidance", type=float, help="guidance_scale.  [default: the pipeline's; embedded: 2]"),
    with_sizes(*SIZES),
    click.option(
        "--arg", "arguments", multiple=True, metavar="NAME=VALUE", help="Argument of the pipeline's call."
    ),
    click.option("--device", type=DEVICE, help="[default: the GPU, else the CPU]"),
    click.option("--dtype", help="bfloat16, float16, float32.  [default: the weights' own]"),
    click.option("--out", default="samples", show_default=True, type=OUT, help="Folder for the pictures."),
    JSON,
)


def with_drawing(function: Any) -> Any:
    """Add the options that `drawing` reads."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def drawing(
    name: str,
    settings: Sequence[str],
    options: Mapping[str, Any],
    own: Sequence[tuple[str, object]],
    finish: Finish | None = None,
) -> Drawing:
    """What is asked for by the command `name`.

    own: options of this command alone, for the line that draws it anew.
    """
    from ..benchmark.machine import command
    from ..gallery.source import Request
    from .drawing import Drawing

    arguments = named_values(options["arguments"])
    if options["guidance"] is not None:
        arguments["guidance_scale"] = options["guidance"]
    typed: list[tuple[str, object]] = [
        ("--model", options["model"]),
        *own,
        *(("--prompt", text) for text in options["prompts"]),
        *((f"--{n.replace('_', '-')}", options[n]) for n in ("steps", "seed", "guidance", *SIZES)),
        *(("--arg", f"{n}={json.dumps(v)}") for n, v in named_values(options["arguments"]).items()),
        *((f"--{n}", options[n]) for n in ("device", "dtype", "out")),
    ]
    request = Request(options["prompts"], options["seed"], options["steps"], sizes_of(options), arguments)
    return Drawing(
        model=options["model"],
        settings=settings,
        request=request,
        out=options["out"],
        command=command(name, options=typed),
        device=options["device"],
        dtype=options["dtype"],
        as_json=options["as_json"],
        team=options.get("ulysses", 1),
        finish=finish or (lambda cached: cached),
    )
