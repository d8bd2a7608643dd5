"""`fxcache sample`: draw with and without the cache, and show what it did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .common import CONFIG_HELP, DEFAULT_CONFIG, ULYSSES
from .drawing_options import drawing, with_drawing


@click.command()
@click.argument("settings", nargs=-1, metavar="[SETTING]...")
@click.option("--config", help=f"{CONFIG_HELP}  [default: {DEFAULT_CONFIG}]")
@click.option("--compare", is_flag=True, help="Several settings in one picture: --compare A B C.")
@click.option(
    "--package", type=click.Path(path_type=Path), help="Sample with this package (it runs native code)."
)
@ULYSSES
@with_drawing
def sample(
    settings: tuple[str, ...], config: str | None, compare: bool, package: Path | None, **options: Any
) -> None:
    """Sample plain and cached, and compare: pictures, clips or sounds.

    Several GPUs for one sample: torchrun --nproc-per-node 2 --no-python fxcache sample --ulysses 2 ...

    Writes into the folder --out: comparison.png (and .webp, of a clip), decisions.png, report.json, and every
    sample at its own size.
    """
    from .drawing import draw

    if compare != bool(settings) or (compare and config is not None):
        raise click.UsageError("give one setting with --config A, or several with --compare A B C")
    own: list[tuple[str, object]] = [("--config", config), ("--package", package)]
    if compare:
        own = [("--compare", settings[0]), *(("", text) for text in settings[1:])]
    if options["ulysses"] > 1:
        if package is not None:
            raise click.UsageError("a package is of one process: give --package, or --ulysses")
        own.append(("--ulysses", options["ulysses"]))
    default = () if package is not None else (DEFAULT_CONFIG,)
    chosen = settings or ((config,) if config is not None else default)
    draw(drawing("sample", chosen, options, own), package)
