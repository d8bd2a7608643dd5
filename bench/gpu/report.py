"""Rows as a table to look at, as Markdown to commit, and as JSON."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fxcache.benchmark.tables import grid

from .rows import Cell, Row, Section

COLORS = {"passed": "green", "failed": "red", "refused": "yellow", "left out": "yellow"}


@dataclass(frozen=True)
class Report:
    """title: of the machine. facts: date, command, versions ... by name."""

    title: str
    facts: Mapping[str, str]
    sections: Sequence[Section]

    @property
    def failed(self) -> list[str]:
        """Names of the checks that did."""
        return [f"{s.name}: {r.name}" for s in self.sections for r in s.rows if r.status == "failed"]

    def json(self) -> dict[str, Any]:
        sections = {
            s.name: {"status": s.status, "seconds": s.seconds, "rows": list(map(_plain, s.rows))}
            for s in self.sections
        }
        return {"title": self.title, "facts": dict(self.facts), "failed": self.failed, "sections": sections}

    def markdown(self) -> str:
        lines = [f"# {self.title}", "", *(f"- {name}: {value}" for name, value in self.facts.items())]
        lines += ["", f"**{_verdict(self)}**"]
        for section in self.sections:
            lines += ["", f"## {section.name}: {section.status}, {section.seconds:.0f} s"]
            for heads, rows in tables(section):
                lines += ["", grid(heads, rows)]
        return "\n".join(lines) + "\n"

    def show(self, console: Console) -> None:
        console.print(f"[bold]{escape(self.title)}[/]")
        for section in self.sections:
            for heads, rows in tables(section):
                table = Table(*heads, title=f"{section.name}: {section.status}", title_justify="left")
                for cells in rows:
                    color = COLORS.get(cells[1], "")
                    table.add_row(*map(escape, cells), style=color if color != "green" else None)
                console.print(table)
        console.print(_verdict(self), style="red" if self.failed else "green")


def tables(section: Section) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Heads and rows; rows that say other things than those before begin another table."""
    rows = list(section.rows)
    keys: list[tuple[str, ...]] = []
    for row in rows:  # one that has nothing to say, or less than those before, stands with them
        before = keys[-1] if keys else ()
        own = tuple(row.cells)
        keys.append(before if before[: len(own)] == own else own)
    for heads, group in itertools.groupby(zip(keys, rows, strict=True), key=lambda pair: pair[0]):
        members = [row for _, row in group]
        last = ["why"] if any(row.note for row in members) else []
        yield ["", "", *heads, *last], [_cells(row, heads, bool(last)) for row in members]


def _cells(row: Row, heads: Sequence[str], noted: bool) -> list[str]:
    values = [_text(row.cells.get(head, "")) for head in heads]
    return [row.name, row.status, *values, *([row.note] if noted else [])]


def _plain(row: Row) -> dict[str, Any]:
    """JSON has no NaN."""
    cells = {
        name: str(cell) if isinstance(cell, float) and not math.isfinite(cell) else cell
        for name, cell in row.cells.items()
    }
    return {**asdict(row), "cells": cells}


def _text(cell: Cell) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.1e}" if 0 < abs(cell) < 1e-3 else f"{cell:.4g}"


def _verdict(report: Report) -> str:
    rows = [row for section in report.sections for row in section.rows]
    count = {status: sum(row.status == status for row in rows) for status in COLORS}
    said = ", ".join(f"{n} {status}" for status, n in count.items() if n)
    return f"{said}; failed: {'; '.join(report.failed)}" if report.failed else said
