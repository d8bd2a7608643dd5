"""A run's folder: its plan, records, pictures and, later, metrics and report."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .errors import NoRunError, RunChangedError, RunExistsError
from .prompts import Prompt
from .records import Key, Record, read_records

PLAN = "run.json"
METRICS = "metrics.json"


@dataclass(frozen=True)
class RunFolder:
    """The one place that knows what a run's files are called."""

    root: Path

    def begin(self, plan: dict[str, Any], about: dict[str, Any], resume: bool) -> None:
        """Write the plan of a new run, or check that a resumed run has the same.

        Args:
            plan: what must stay the same when the run is resumed.
            about: versions, machine and command, kept from the first start.

        Raises `RunExistsError`, `RunChangedError`.
        """
        path = self.root / PLAN
        if not path.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            write_json(path, {"plan": plan, **about})
            return
        if not resume:
            raise RunExistsError(self.root)
        begun, wanted = self.about()["plan"], json.loads(json.dumps(plan))
        differing = [name for name in wanted if wanted[name] != begun.get(name)]
        if differing:
            raise RunChangedError(self.root, differing)

    def about(self) -> dict[str, Any]:
        """The plan and what else `begin` wrote. Raises `NoRunError`."""
        path = self.root / PLAN
        if not path.is_file():
            raise NoRunError(
                self.root, f"no {PLAN} there; make a run with: fxcache bench run --out {self.root}"
            )
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def prompts(self) -> tuple[Prompt, ...]:
        return tuple(Prompt(**fields) for fields in self.about()["plan"]["prompts"])

    @property
    def record_folder(self) -> Path:
        return self.root / "records"

    def records(self) -> dict[Key, Record]:
        """Records whose picture is there too, in the order of settings and prompts as run."""
        return {k: r for k, r in read_records(self.record_folder).items() if self.picture(*k).is_file()}

    def picture(self, setting: str, index: int) -> Path:
        return self.root / "images" / setting / f"{index:05d}.png"

    def save(self, image: Image.Image, setting: str, index: int) -> None:
        """Save a picture whole or not at all."""
        path = self.picture(setting, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        image.save(part, format="PNG")
        part.replace(path)

    def metrics(self) -> dict[str, Any]:
        """What `fxcache bench metrics` found; empty before it ran."""
        path = self.root / METRICS
        found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return found

    def save_metrics(self, metrics: dict[str, Any]) -> None:
        write_json(self.root / METRICS, metrics)

    @property
    def report(self) -> Path:
        return self.root / "report"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(value, indent=1) + "\n")
    part.replace(path)
