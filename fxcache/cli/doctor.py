"""`fxcache doctor`: versions, device, and what of fxcache works here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..version import __version__
from .look import JSON, print_json, quiet, table

if TYPE_CHECKING:
    from .probes import Found


@click.command()
@click.option(
    "--package",
    type=click.Path(path_type=Path),
    help="Say whether this package can be loaded here, too; nothing of it is run.",
)
@JSON
@click.pass_context
def doctor(context: click.Context, package: Path | None, as_json: bool) -> None:
    """Print versions, the device, and what of fxcache works here and what does not.

    Everything is tried, in a few seconds. Exit code 1: models cannot be cached here, a version is not
    supported, or the package cannot be loaded.
    """
    from . import probes

    quiet()
    versions, works = probes.versions(), probes.works()
    needed = [*versions, works[0]]
    if package is not None:
        works.append(probes.package(package))
        needed.append(works[-1])
    if as_json:
        print_json(_as_dict(versions, probes.device(), works))
    else:
        rows = [(f.name, f.detail) for f in (*versions, probes.device())]
        table(f"fxcache {__version__}", ("what", "version"), rows, left=2)
        marked = [(f.name, "yes" if f.works else "no", f.detail) for f in works]
        table("Works here", ("what", "", "why"), marked, left=3)
    context.exit(0 if all(found.works for found in needed) else 1)


def _as_dict(versions: Sequence[Found], device: Found, works: Sequence[Found]) -> dict[str, Any]:
    return {
        "fxcache": __version__,
        "versions": {found.name: {"supported": found.works, "version": found.detail} for found in versions},
        "device": device.detail,
        "works": [dataclasses.asdict(found) for found in works],
    }
