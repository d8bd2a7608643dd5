"""Shows a run: a bar with the time left, and what the last drawing did."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ..runtime.stats import amount
from .records import Record


def say(console: Console, text: str) -> None:
    """Print a line as it is."""
    console.print(text, highlight=False, markup=False, soft_wrap=True)


class ProgressWatcher:
    """Draws bars where there is a terminal; elsewhere prints a line per tenth of a phase.

    Use as a context manager. `quiet` is for the processes of a shared run that are not the first.
    """

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console = console
        self._quiet = quiet
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[last]}"),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._phase = ""

    def __enter__(self) -> ProgressWatcher:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def begin(self, phase: str, batches: int, settings: int) -> None:
        if batches:
            self._say(f"{phase}: {settings} rows, {batches} drawings to do by this process")
        self._phase = phase
        self._task = self._progress.add_task(phase, total=batches, last="warming up")

    def warmed_up(self, setting: str) -> None:
        assert self._task is not None
        self._progress.update(self._task, last=f"warmed up {setting}")

    def drawn(self, records: Sequence[Record]) -> None:
        assert self._task is not None
        last = _line(records[0])
        self._progress.update(self._task, advance=1, last=last)
        if not self._console.is_terminal:
            self._print_tenths(last)

    def _print_tenths(self, last: str) -> None:
        assert self._task is not None
        task = self._progress.tasks[self._task]
        total = int(task.total or 1)
        if int(task.completed) * 10 // total > (int(task.completed) - 1) * 10 // total:
            left = task.time_remaining
            when = "" if left is None else f", {left:.0f} s left"
            self._say(f"{self._phase} {int(task.completed)}/{total}{when}; {last}")

    def _say(self, text: str) -> None:
        if not self._quiet:
            say(self._console, text)


def _line(record: Record) -> str:
    saved = "" if not record.flops_saved else f", saved {amount(round(record.flops_saved))}FLOPs"
    cached = f", {record.cached_steps:g}/{record.steps} cached" if record.contexts else ""
    return f"{record.setting}{cached}, {record.seconds:.3f} s a picture{saved}"
