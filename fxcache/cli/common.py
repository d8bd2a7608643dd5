"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import click

from ..preparation.sizes import Sizes

DEFAULT_CONFIG = "F1B0_W4M0MC3_T1O1_R0.12"
CONFIG_HELP = "Cache setting in the notation, or a file: of a plan (plan.json), or a setting (setting.yaml)."
SIZES = {
    "height": "Pixels.",
    "width": "Pixels.",
    "frames": "Of a clip.",
    "prompt_length": "Tokens that prompts are padded or cut to.",
    "batch": "Samples of one prompt at a time.",
}


ULYSSES = click.option(
    "--ulysses",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="N processes of torchrun draw each sample together (context parallelism).",
)


def with_sizes(*names: str) -> Callable[[Any], Any]:
    """Options for these sizes, as `--prompt-length`. `sizes_of` collects them."""

    def decorate(function: Any) -> Any:
        for name in reversed(names):
            option = f"--{name.replace('_', '-')}"
            function = click.option(option, type=click.IntRange(1), help=SIZES[name])(function)
        return function

    return decorate


def sizes_of(options: Mapping[str, Any]) -> Sizes:
    """What was given of `with_sizes`."""
    return Sizes(**{f.name: options.get(f.name) for f in fields(Sizes)})
