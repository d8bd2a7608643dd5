"""What a check finds: a row of a section."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from .setup import Setup

Cell = str | int | float
Cells = dict[str, Cell]
Status = Literal["passed", "failed", "refused", "left out"]


class CheckFailed(Exception):
    """A check found what should not be. cells: what was found up to there."""

    def __init__(self, why: str, cells: Cells | None = None) -> None:
        super().__init__(why)
        self.cells = cells or {}


class NotHere(Exception):
    """This machine, or this version, has not what the check needs."""


@dataclass(frozen=True)
class Check:
    """One row to be. run: returns its cells, or raises.

    seconds: what it takes on a GPU, generously: it is left out where less is left.
    """

    name: str
    run: Callable[[], Cells]
    seconds: float = 5.0


MakeChecks = Callable[[Setup], Iterator[Check]]


@dataclass(frozen=True)
class Row:
    """What became of a check. note: why it did not pass."""

    name: str
    status: Status
    cells: Cells = field(default_factory=dict)
    note: str = ""
    seconds: float = 0.0
    traceback: str = ""


@dataclass(frozen=True)
class Section:
    """The rows of a section. It failed if one of them did, and passed if any did and none failed."""

    name: str
    rows: tuple[Row, ...]
    seconds: float

    @property
    def status(self) -> Status:
        order: tuple[Status, ...] = ("failed", "passed", "refused", "left out")
        return next((s for s in order if any(row.status == s for row in self.rows)), "passed")
