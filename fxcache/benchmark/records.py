"""What was measured, one JSON line per picture, written as it comes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Key = tuple[str, int]  # setting, prompt index


@dataclass(frozen=True)
class ContextRecord:
    """One context's trajectory: which of its steps were hits, and the diffs that decided."""

    steps: int
    cached_steps: tuple[int, ...]
    residual_diffs: dict[int, float]


@dataclass(frozen=True)
class Record:
    """One picture of one setting.

    batch: pictures drawn together; they share one decision per step. seconds: of the batch by the
    run's clock, divided by its size. flops_done, flops_saved: of this picture; None where they cannot
    be counted.
    contexts: of the batch, empty for the plain model. others: cores that other processes kept busy
    meanwhile; None where that is not known.
    """

    setting: str
    index: int
    text: str
    seed: int
    batch: int
    steps: int
    seconds: float
    flops_done: float | None
    flops_saved: float | None
    contexts: dict[str, ContextRecord]
    others: float | None = None

    @property
    def key(self) -> Key:
        return self.setting, self.index

    @property
    def cached_steps(self) -> float:
        """Hits, averaged over contexts (the two halves of guidance decide separately)."""
        hits = [len(c.cached_steps) for c in self.contexts.values()]
        return sum(hits) / len(hits) if hits else 0.0

    def to_line(self) -> str:
        return json.dumps(asdict(self), separators=(",", ":")) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Record:
        fields: dict[str, Any] = json.loads(line)
        contexts = {
            name: ContextRecord(
                c["steps"], tuple(c["cached_steps"]), {int(s): d for s, d in c["residual_diffs"].items()}
            )
            for name, c in fields.pop("contexts").items()
        }
        return cls(**fields, contexts=contexts)


class RecordFile:
    """Appends records to one process's file; each `add` is on the disk when it returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        _cut_torn_line(path)

    def add(self, records: Iterable[Record]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(r.to_line() for r in records))
            file.flush()
            os.fsync(file.fileno())


def read_records(folder: Path) -> dict[Key, Record]:
    """All whole lines of all processes' files; of a picture drawn twice the last."""
    found: dict[Key, Record] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):  # a line without its end was being written when the run stopped
                record = Record.from_line(line)
                found[record.key] = record
    return found


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
