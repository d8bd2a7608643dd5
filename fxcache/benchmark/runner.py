"""The run: every setting on every prompt, interleaved, recorded as it comes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .candidate import Candidate, draw, prepare
from .equal_flops import mean_flops, plain_rows
from .errors import BenchmarkError
from .folder import RunFolder
from .plain_cost import PlainCost
from .prompts import Prompt, batches
from .records import Key, Record, RecordFile
from .sharing import Share
from .subject import Subject
from .sweep import Setting, Sweep

Batch = tuple[Prompt, ...]


class Watcher(Protocol):
    """Is told how a run goes."""

    def begin(self, phase: str, batches: int, settings: int) -> None: ...

    def warmed_up(self, setting: str) -> None: ...

    def drawn(self, records: Sequence[Record]) -> None: ...


@dataclass
class Runner:
    """One process's part of a run.

    steps: of every setting that has no number of its own. size: pictures drawn in one call.
    """

    subject: Subject
    sweep: Sweep
    prompts: tuple[Prompt, ...]
    steps: int
    size: int
    folder: RunFolder
    share: Share
    watcher: Watcher
    _cost: PlainCost = field(default_factory=PlainCost)

    def run(self) -> None:
        """Draw what is not there yet; a run that was interrupted goes on where it stopped."""
        self._phase("settings", self.sweep.settings)
        if self.sweep.equal_flops:
            flops = mean_flops(self._everything().values())
            self._phase("fewer plain steps", plain_rows(flops, self.steps, self.sweep.solvers))
        self.share.exchange(None)  # a process that is done waits, so that the run is whole when one ends

    def _phase(self, name: str, settings: Sequence[Setting]) -> None:
        work = self.share.led(self._work(settings))  # a team draws the same, whatever records each sees
        self.watcher.begin(name, sum(map(len, work.values())), len(settings))
        needed = [s for s in settings if any(s in missing for missing in work.values())]
        ready = dict[Setting, Candidate]()
        for setting in needed:
            ready[setting] = self._prepare(setting, next(iter(work)), ready.values())
        file = RecordFile(self.folder.record_folder / f"{self.share.rank}.jsonl")
        for number, (batch, missing) in enumerate(work.items()):
            for setting in _rotated(missing, number):
                self._draw(ready[setting], batch, file)

    def _work(self, settings: Sequence[Setting]) -> dict[Batch, list[Setting]]:
        """The settings that each of this process's batches still lacks."""
        done = self.folder.records()
        work = {
            batch: [s for s in settings if any((s.name, p.index) not in done for p in batch)]
            for batch in self.share.of(batches(self.prompts, self.size))
        }
        return {batch: missing for batch, missing in work.items() if missing}

    def _prepare(self, setting: Setting, warm_up: Batch, others: Iterable[Candidate]) -> Candidate:
        steps = setting.steps or self.steps
        candidate = prepare(self.subject, setting, steps, warm_up, self._cost, others)
        self.watcher.warmed_up(setting.name)
        return candidate

    def _draw(self, candidate: Candidate, batch: Batch, file: RecordFile) -> None:
        images, records = draw(self.subject, candidate, batch)
        if len(images) != len(batch):
            raise BenchmarkError(f"{self.subject.name} drew {len(images)} pictures for {len(batch)} prompts")
        if self.share.writes:
            for image, record in zip(images, records, strict=True):
                self.folder.save(image, *record.key)
            file.add(records)
        self.watcher.drawn(records)

    def _everything(self) -> Mapping[Key, Record]:
        """All processes' records, whatever folders they see."""
        parts = self.share.exchange(self.folder.records())
        return {key: record for part in parts for key, record in part.items()}


def _rotated(settings: Sequence[Setting], by: int) -> list[Setting]:
    # No setting always follows the same one, so a machine that slows down slows all alike.
    at = by % len(settings)
    return [*settings[at:], *settings[:at]]
