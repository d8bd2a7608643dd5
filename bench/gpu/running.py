"""Run checks one after another, within a budget of time; what one raises is its row."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from .rows import Check, CheckFailed, MakeChecks, NotHere, Row, Section
from .setup import Setup

Say = Callable[[str, Row], None]


def run(sections: Mapping[str, MakeChecks], setup: Setup, budget: float, say: Say) -> list[Section]:
    """All sections in turn.

    Args:
        sections: what makes the checks of each, by name.
        budget: seconds for all of it. A check that would not fit in what is left is a row that says so.
        say: told of every row when it is known.
    """
    end = time.perf_counter() + budget
    found = []
    for name, make in sections.items():
        begin = time.perf_counter()
        rows = []
        for row in _rows(make, setup, end):
            say(name, row)
            rows.append(row)
        found.append(Section(name, tuple(rows), time.perf_counter() - begin))
    return found


def _rows(make: MakeChecks, setup: Setup, end: float) -> Iterator[Row]:
    try:
        for check in make(setup):
            left = end - time.perf_counter()
            if check.seconds > left:
                note = f"left out: time ({check.seconds:.0f} s wanted, {max(left, 0):.0f} s left)"
                yield Row(check.name, "left out", note=note)
            else:
                yield _checked(check)
    except Exception as error:  # the section's own code: models that cannot be built, for instance
        yield _failed("set up", error)


def _checked(check: Check) -> Row:
    begin = time.perf_counter()
    try:
        row = Row(check.name, "passed", check.run())
    except NotHere as error:
        row = Row(check.name, "refused", note=str(error))
    except Exception as error:
        row = _failed(check.name, error)
    return replace(row, seconds=time.perf_counter() - begin)


def _failed(name: str, error: Exception) -> Row:
    why = str(error) if isinstance(error, CheckFailed) else f"{type(error).__name__}: {error}"
    cells = error.cells if isinstance(error, CheckFailed) else {}
    return Row(name, "failed", cells, why, traceback="".join(traceback.format_exception(error)))
