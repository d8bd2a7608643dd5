"""The command line: one file per command, all of them listed here."""

from __future__ import annotations

import os

import click

from .bench import bench
from .calibrate import calibrate
from .compilation import compile_command, export_command
from .doctor import doctor
from .explain import explain
from .look import COMPLETION, EXIT_CODES, Commands
from .sample import sample
from .tensorrt_report import tensorrt_report


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"{EXIT_CODES}\n{COMPLETION}",
)
@click.version_option(package_name="fxcache")
def main() -> None:
    """fxcache: block caching for diffusion transformers, compiled into the model's graph."""
    # Before a command imports it: what it says of image processors is no news to who draws.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


for command in (sample, explain, calibrate, compile_command, export_command, bench, tensorrt_report, doctor):
    main.add_command(command)
