"""The plain runs of a calibration, and plans made from them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CalibrationError
from ..plans import Plan
from ..plans.fit import Pass, Rows, fit
from ..plans.formula import weights
from ..plans.response import Response, responses
from ..plans.schedule import BEND, budget, computed_steps
from ..plans.search import Schedule, search
from . import checkpoint
from .frontier import Plans
from .noise import Noise
from .passes import Answers, observed, parts, require_alike
from .player import Player
from .progress import Progress
from .record import Record, Recorder
from .results import pictures, psnr, quality
from .sampler import Sampler

SEARCHES = 2  # of the schedule, each from the best that was played, and with what was learned from it
STARTS = (0.0, 0.3, BEND, 0.9)  # bends of the schedules that it is searched from, besides
CANDIDATES = 3  # schedules of a search that are played: what it says of them is not exact
REFITS = 2  # passes on which rows are fitted anew
MIB = 2**20


@dataclasses.dataclass(frozen=True)
class Played:
    """Rows that were played on the runs that are fitted to.

    score: in dB; the mean of all their pictures, and of the worst quarter, on average.

    Example:
        >>> from fxcache.calibration.study import Played
        >>> Played(computed=(0, 1), rows=((1.0, 0.0),) * 2, records=[], score=120.0).computed
        (0, 1)
    """

    computed: Schedule
    rows: Rows
    records: list[Record]
    score: float


class Study:
    """Runs of a sampler, the last `held` of which are kept for measuring quality.

    Example:
        >>> from fxcache.calibration.progress import Progress
        >>> from fxcache.calibration.sampler import sampler
        >>> from fxcache.calibration.study import Study
        >>> from fxcache.embedded import load_pipeline, load_transformer, sample
        >>> def run(model, i):
        ...     return sample(load_pipeline(model), [i], seeds=[i], num_inference_steps=4)
        >>> study = Study(sampler(load_transformer(), None, run, 2), held=0, values=2, search=False)
        >>> progress = Progress(lambda *told: None, study.cost([2]))
        >>> study.begin(progress)
        >>> study.steps, study.plans(2, progress).draw()
        (4, '#..#')
    """

    def __init__(
        self, sampler: Sampler, held: int, values: int, search: bool, file: Path | None = None
    ) -> None:
        self._sampler = sampler
        self._fitted = sampler.runs - held
        self._values, self._search, self._file = values, search, file
        self._records, self._results = list[Record](), list[list[Tensor]]()
        self._responses: tuple[Response | None, ...] = ()
        self._noise = Noise(sampler.generators)

    @property
    def steps(self) -> int:
        """Of a run, of all denoisers together.

        Known after `begin`.
        """
        return len(self._records[0].steps)

    def cost(self, speedups: Iterable[float]) -> float:
        """Samplings of one run that plans at these speedups take at most, the plain ones among them."""
        found = SEARCHES * CANDIDATES if self._search else 1
        played = 1 + len(self._ways()) * (found + REFITS)
        passes = self._fitted * played + self._sampler.runs - self._fitted
        return self._sampler.runs + sum(passes / speedup for speedup in speedups)

    def begin(self, progress: Progress) -> None:
        """Do the plain runs, or read those that were done before.

        Raises:
            CalibrationError: they cannot be calibrated.
        """
        runs = self._sampler.runs
        progress.say(f"{runs} plain runs; at most {progress.total:.0f} samplings in all")
        key = checkpoint.fingerprint(self._sampler.denoisers, (runs, self._sampler.key))
        before = checkpoint.load(self._file, key) if self._file is not None else None
        if before is not None:
            self._records, self._results, states = before
            self._noise = Noise(self._sampler.generators, states)
            progress.add(len(self._records))
        try:
            for i in range(len(self._records), runs):
                record, result = self._draw(i, {})
                if self._records:
                    require_alike(self._records[0], record, i)
                self._noise.done()
                self._records.append(record)
                self._results.append(result)
                if self._file is not None:
                    checkpoint.save(self._file, key, self._records, self._results, self._noise.states)
                progress.add(1)
                if i == 0:
                    kept = _bytes(record) * runs / MIB
                    progress.say(f"plain runs, whose records take {kept:.1f} MiB in all")
        finally:
            self._noise.restore()
        fitted = self._records[: self._fitted]
        self._responses = responses([r.latents for r in fitted], [r.outputs for r in fitted])

    def plans(self, speedup: float, progress: Progress) -> Plans:
        """Those of a speedup: one, or a mapping from denoisers. After `begin`.

        Raises:
            PlanError: there is no such speedup.
        """
        progress.say(f"plans at {speedup:g}x")
        try:
            best = self._best(speedup, progress)
            measured = self._measured(best, progress)
        finally:
            self._noise.restore()
        found = self._split(best.computed, best.rows)
        plans = {name: plan.replace(quality=measured) for name, plan in found.items()}
        return plans if len(plans) > 1 else next(iter(plans.values()))

    def _best(self, speedup: float, progress: Progress) -> Played:
        """The best of what was played: by formula, fitted to plain runs, and fitted again to played ones."""
        start = self._formula(speedup)
        first = self._play(start, self._prior(start), progress)
        # Where errors are small the scatter tells good schedules from bad ones; where they are large a
        # search without it finds better ones: what each finds is played.
        return max((self._track(first, speedup, way, progress) for way in self._ways()), key=_by_score)

    def _ways(self) -> tuple[bool, ...]:
        """Of searching: whether scatters count."""
        return (True, False) if self._search else (True,)

    def _track(self, first: Played, speedup: float, scatters: bool, progress: Progress) -> Played:
        """The best that one way of searching leads to, from a plan that was played.

        scatters: whether to count what an error changes across itself; else only what it changes along.
        """
        best, tried = first, set[Schedule]()
        plain = self._records[: self._fitted]
        learned = self._answers(first)  # of all that was played

        def seen(played: Played | None) -> Pass:
            """What rows are fitted to: that one as it was played, or the plain runs."""
            # Without scatters what poor ones showed misleads it: there the best one alone counts.
            known = learned if scatters else self._answers(best)
            unit = ((1.0,) + (0.0,) * self._values,) * self.steps
            records, rows = (plain, unit) if played is None else (played.records, played.rows)
            found = observed(plain, records, rows, self._responses, known)
            return found if scatters else dataclasses.replace(found, scatters=())

        def play(one: Pass, computed: Schedule) -> Played:
            found = self._play(computed, fit(one, computed, self._prior(computed)).rows, progress)
            if scatters:
                learned.add(plain, found.records)
            return found

        for _ in range(SEARCHES if self._search else 1):
            unplayed = seen(None)
            for computed in self._candidates(self._starts(best, speedup, scatters), unplayed, tried):
                tried.add(computed)
                best = max(best, play(unplayed, computed), key=_by_score)
        last = best
        for _ in range(REFITS):
            last = play(seen(last), last.computed)
            best = max(best, last, key=_by_score)
        return best

    def _answers(self, played: Played) -> Answers:
        """What one that was played shows."""
        found = Answers(self.steps)
        found.add(self._records[: self._fitted], played.records)
        return found

    def _starts(self, best: Played, speedup: float, scatters: bool) -> tuple[Schedule, ...]:
        """Where a search begins; one alone ends in the nearest schedule that no single move betters."""
        others = STARTS if scatters and self._search else ()
        return tuple(dict.fromkeys((best.computed, *(self._formula(speedup, bend) for bend in others))))

    def _candidates(
        self, starts: Sequence[Schedule], seen: Pass, tried: Collection[Schedule]
    ) -> tuple[Schedule, ...]:
        """The best that searches from several schedules find, besides those that were tried."""
        if not self._search:
            return tuple(starts)

        @functools.cache
        def score(computed: Schedule) -> float:
            return _decibels(fit(seen, computed, self._prior(computed)).errors)

        keep = CANDIDATES + len(tried)
        found = {s for start in starts for s in search(start, score, self._ends(), keep)}
        return tuple(sorted(found - set(tried), key=score, reverse=True)[:CANDIDATES])

    def _play(self, computed: Schedule, rows: Rows, progress: Progress) -> Played:
        plans = self._split(computed, rows)
        records, values = [], list[float]()
        for i in range(self._fitted):
            record, result = self._draw(i, plans)
            records.append(record)
            values += psnr(self._results[i], result)
            progress.add(len(computed) / self.steps)
        return Played(computed, rows, records, _score(values))

    def _measured(self, best: Played, progress: Progress) -> Any:
        plans = self._split(best.computed, best.rows)
        values = list[float]()
        held = range(self._fitted, self._sampler.runs)
        for i in held:
            values += psnr(self._results[i], self._draw(i, plans)[1])
            progress.add(len(best.computed) / self.steps)
        return quality(values, len(held)) if values else None

    def _draw(self, run: int, plans: Mapping[str, Plan]) -> tuple[Record, list[Tensor]]:
        """Do a run, with plans played over the denoisers."""
        recorder = Recorder()
        players = {}
        for name, model in self._sampler.denoisers.items():
            options = self._sampler.options[name]
            entry = {k: options[k] for k in ("timestep", "method") if k in options}
            players[name] = Player(model, plans.get(name), observe=recorder.observer(name), **entry)
        self._noise.rewind(run)
        with torch.no_grad():
            result = pictures(self._sampler.draw(run, players))
        like = self._records[run] if run < len(self._records) else None
        record = recorder.record(like)
        if like is not None:
            require_alike(like, record, run)
            if not torch.equal(record.latents[0], like.latents[0]):
                raise CalibrationError(
                    f"run {run} began with other latents when it was repeated",
                    "Give each run noise of its own: a generator in its call, or seeds made from i.",
                )
        return record, result

    # ------------------------------------------------------- schedules and rows of all denoisers together

    def _parts(self) -> list[tuple[int, int]]:
        return [(start, len(own)) for start, own in parts(self._records[0].steps)]

    def _formula(self, speedup: float, bend: float = BEND) -> Schedule:
        found = list[int]()
        for start, steps in self._parts():
            own = computed_steps(steps, budget(steps, speedup), bend) if steps > 1 else (0,)
            found += [start + step for step in own]
        return tuple(found)

    def _ends(self) -> set[int]:
        """Steps that are computed in every schedule: the first and the last of each denoiser."""
        return {end for start, steps in self._parts() for end in (start, start + steps - 1)}

    def _prior(self, computed: Schedule) -> Rows:
        rows = list[tuple[float, ...]]()
        for start, steps in self._parts():
            own = _within(computed, start, steps)
            rows += (
                weights(steps, own, values=self._values) if steps > 1 else [(1.0,) + (0.0,) * self._values]
            )
        return tuple(rows)

    def _split(self, computed: Schedule, rows: Rows) -> dict[str, Plan]:
        found = {}
        for start, own in parts(self._records[0].steps):
            name = own[0].denoiser
            found[name] = Plan(
                steps=len(own),
                computed=_within(computed, start, len(own)),
                weights=rows[start : start + len(own)],
                timesteps=tuple(step.timestep for step in own),
                model=type(self._sampler.denoisers[name]).__name__,
                scheduler=self._sampler.scheduler,
                method="calibrated" + (", schedule searched" if self._search else ""),
                runs=self._fitted,
            )
        return found


def _within(computed: Sequence[int], start: int, steps: int) -> Schedule:
    return tuple(step - start for step in computed if start <= step < start + steps)


def _by_score(played: Played) -> float:
    return played.score


def _score(values: Sequence[float]) -> float:
    """Of what was played: the mean alone would choose by what a few good pictures gain."""
    low = sorted(values)[: max(len(values) // 4, 1)]
    return (sum(values) / len(values) + sum(low) / len(low)) / 2


def _decibels(errors: Tensor) -> float:
    return float(-10 * errors.clamp_min(1e-20).log10().mean())


def _bytes(record: Record) -> int:
    return record.latents.nbytes + record.outputs.nbytes
