"""How commands talk: tables of 80 columns, a bar where there is a terminal, errors in one line."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..errors import FxcacheError

EXIT_CODES = """
Exit codes: 0 done; 1 it could not be done, and one line says why and what to do; 2 the command line is
wrong.
"""
COMPLETION = """
Completion by the shell: eval "$(_FXCACHE_COMPLETE=bash_source fxcache)"; zsh_source, fish_source likewise.
"""
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead, and nothing else.")


class Commands(click.Group):
    """Commands of which every mistake of a user becomes one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FxcacheError as error:
            raise click.ClickException(" ".join(str(error).split())) from error


def quiet() -> None:
    """Keep the bars that libraries draw while they load, and what they say to their own authors, away."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)


def console() -> Console:
    """Prints to stdout what a command found; in a pipe 80 columns wide and without color."""
    return Console(highlight=False)


def messages() -> Console:
    """Prints to stderr what a command does meanwhile."""
    return Console(stderr=True, highlight=False)


@contextlib.contextmanager
def aside(as_json: bool) -> Iterator[None]:
    """Within the block, where JSON is asked for, what is printed goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        yield


def say(text: str) -> None:
    """Print a line, however long, as it is."""
    console().print(escape(text), soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table.

    left: how many columns hold words; the others hold numbers. The first may break anywhere.
    """
    made = Table(title=escape(title), box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for i, column in enumerate(columns):
        words = i < left
        made.add_column(
            column,
            justify="left" if words else "right",
            overflow="fold",
            no_wrap=not words,
        )
    for row in rows:
        made.add_row(*map(escape, row))
    console().print(made)


def facts(title: str, found: Sequence[tuple[str, str]]) -> None:
    """Print names and what there is to say of each."""
    made = Table(title=escape(title), box=None, show_header=False, title_justify="left", pad_edge=False)
    made.add_column(no_wrap=True, style="bold")
    made.add_column(overflow="fold")
    for name, text in found:
        made.add_row(escape(name), escape(text))
    console().print(made)


def say_sizes(title: str, found: Mapping[str, Sequence[int | str]]) -> None:
    """Print the shapes of a model's inputs, of which the sizes that are words are free."""
    facts(title, [(name, f"[{', '.join(map(str, shape))}]") for name, shape in found.items()])
    free = sorted({size for shape in found.values() for size in shape if isinstance(size, str)})
    say(f"{', '.join(free)} may be other sizes" if free else "and no other sizes")


def print_json(found: Any) -> None:
    """Print what a program reads."""
    click.echo(json.dumps(found, indent=1))


class Silence:
    """In place of a bar, in all processes but one."""

    def begin(self, text: str) -> None:
        """What comes now."""

    def step(self) -> None:
        """One more is done."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Bar:
    """A bar with the time left; without a terminal a line for each thing that begins. On stderr."""

    def __init__(self, total: int) -> None:
        self._console = messages()
        self._progress = Progress(
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(),
            TextColumn("left  {task.description}"),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._progress.add_task("", total=total)

    def begin(self, text: str) -> None:
        """What comes now."""
        self._progress.update(self._task, description=escape(text))
        if not self._console.is_terminal:
            self._console.print(escape(text), soft_wrap=True)

    def step(self) -> None:
        """One more is done."""
        self._progress.advance(self._task)

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
