"""What is drawn: a list of prompts, each picture with a seed of its own."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import MissingPathError, PromptError

COLUMNS = ("prompt", "prompts", "text")


@dataclass(frozen=True)
class Prompt:
    """One picture to draw. index: its place in the run. seed: of its noise."""

    index: int
    text: str
    seed: int


def expand(texts: Sequence[str], repeats: int, first_seed: int = 0) -> tuple[Prompt, ...]:
    """Every text `repeats` times; picture i has the seed `first_seed + i`."""
    count = len(texts)
    return tuple(Prompt(i, texts[i % count], first_seed + i) for i in range(count * repeats))


def batches(prompts: Sequence[Prompt], size: int) -> tuple[tuple[Prompt, ...], ...]:
    """Prompts in consecutive groups of `size`, the last one perhaps smaller."""
    return tuple(tuple(prompts[i : i + size]) for i in range(0, len(prompts), size))


def read_prompts(path: Path) -> tuple[str, ...]:
    """Texts of a file: one a line, or the prompt column of a .csv (DrawBench's), or .jsonl records.

    Raises `MissingPathError`, `PromptError`.
    """
    if not path.is_file():
        raise MissingPathError(
            "--prompts", path, "no such file; it holds one prompt a line (.txt, .csv, .jsonl)"
        )
    try:
        texts = _parse(path)
    except (ValueError, csv.Error) as error:
        raise PromptError(str(path), f"cannot be read as {path.suffix or 'text'} ({error})") from error
    found = tuple(text.strip() for text in texts if text.strip())
    if not found:
        raise PromptError(str(path), "it holds no prompt; write one a line")
    return found


def _parse(path: Path) -> list[str]:
    content = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        rows = list(csv.DictReader(content.splitlines()))
        return [row[_column(row)] or "" for row in rows]
    if path.suffix == ".jsonl":
        records = [json.loads(line) for line in content.splitlines() if line.strip()]
        return [str(record[_column(record)]) for record in records]
    return content.splitlines()


def _column(row: dict[str, str]) -> str:
    for name in row:
        if name and name.strip().lower() in COLUMNS:
            return name
    raise ValueError(f"no column named {' or '.join(COLUMNS)}, only {', '.join(map(str, row))}")
