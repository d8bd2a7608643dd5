"""A run's rows: what each setting cost and what it did to the pictures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .equal_flops import equal_steps, mean_flops
from .folder import RunFolder
from .measure import complete_settings
from .records import Record
from .sweep import BASELINE, fewer_steps, solver_of


@dataclass(frozen=True)
class Row:
    """One setting. seconds: a picture, the median over drawings. flops: a picture, mean.

    values: measures by key, absent where not measured. equal: the plain row nearest in FLOPs.
    """

    name: str
    config: Mapping[str, Any]
    steps: int
    cached_steps: float
    seconds: float
    flops: float | None
    values: Mapping[str, float]
    records: Sequence[Record]
    equal: str | None

    @property
    def plain(self) -> bool:
        return self.name.startswith(BASELINE.name)

    @property
    def solver(self) -> str | None:
        """Of a row of fewer steps; None for the pipeline's own."""
        return solver_of(self.name)


@dataclass(frozen=True)
class Results:
    """All rows of a run, the baseline first, with what the run says of itself."""

    about: Mapping[str, Any]
    metrics: Mapping[str, Any]
    rows: tuple[Row, ...]

    @property
    def baseline(self) -> Row:
        return self.rows[0]

    def row(self, name: str) -> Row:
        return next(r for r in self.rows if r.name == name)

    @property
    def solvers(self) -> tuple[str, ...]:
        """Those that have rows of fewer steps, besides the pipeline's own."""
        return tuple(dict.fromkeys(r.solver for r in self.rows if r.solver is not None))

    def measured(self, key: str) -> bool:
        """Whether every row has this measure."""
        return all(key in row.values for row in self.rows)


def load_results(folder: RunFolder) -> Results:
    """Read a whole run. Raises `NoRunError` where it is not."""
    about, metrics = folder.about(), folder.metrics()
    names = complete_settings(folder)
    records = folder.records()
    flops = mean_flops(records.values())
    equal = equal_steps(flops, about["plan"]["steps"])
    configs = {s["name"]: s["config"] for s in about["plan"]["settings"]}
    prompts = folder.prompts()
    rows = tuple(
        _row(
            name,
            configs.get(name, {}),
            [records[name, p.index] for p in prompts],
            flops.get(name),
            metrics.get("settings", {}).get(name, {}),
            _equal_row(equal.get(name), about["plan"]["steps"], names),
        )
        for name in names
    )
    return Results(about, metrics, rows)


def _row(
    name: str,
    config: Mapping[str, Any],
    records: Sequence[Record],
    flops: float | None,
    values: Mapping[str, float],
    equal: str | None,
) -> Row:
    return Row(
        name=name,
        config=config,
        steps=records[0].steps,
        cached_steps=statistics.mean(r.cached_steps for r in records),
        seconds=statistics.median(r.seconds for r in records),
        flops=flops,
        values=values,
        records=records,
        equal=equal,
    )


def _equal_row(steps: int | None, whole: int, names: Sequence[str]) -> str | None:
    if steps is None:
        return None
    name = BASELINE.name if steps == whole else fewer_steps(steps).name
    return name if name in names else None  # a sweep may do without these rows
