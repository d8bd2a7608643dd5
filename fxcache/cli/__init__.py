"""The command line: one file per command, all of them listed here."""

from __future__ import annotations

import click

from .bench import bench
from .calibrate import calibrate
from .compilation import compile_command, export_command
from .sample import sample
from .tensorrt_report import tensorrt_report


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fxcache")
def main() -> None:
    """fxcache: block caching for diffusion transformers, compiled into the model's graph."""


main.add_command(sample)
main.add_command(calibrate)
main.add_command(compile_command)
main.add_command(export_command)
main.add_command(bench)
main.add_command(tensorrt_report)
