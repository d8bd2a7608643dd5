"""Steps at full width side by side: plain, the minimum, hits, misses, planned hits, peers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from .clock import Times, clock, race
from .contenders import Contender, Field
from .rows import Cells, Check, CheckFailed
from .setup import Setup
from .subjects import wide

ROUNDS = {False: (40, 10), True: (10, 5)}  # by --quick: steps of each, and those before that do not count
RACING = 60.0  # seconds, generously


def timings(setup: Setup) -> Iterator[Check]:
    """First all are built and compared with eager, then they take turns."""
    rounds, warmup = ROUNDS[setup.quick]
    steps = 2 * (rounds + warmup)
    subject = wide(setup)
    yield Check(subject.title, dict)
    field = Field(setup, subject, steps)
    yield from field.checks()
    found: dict[str, Times] = {}

    def run() -> Cells:
        models = {name: contender.step for name, contender in field.entered.items()}
        if not models:
            raise CheckFailed("nobody takes part")
        found.update(race(models, lambda i: subject.call(i, steps), rounds, warmup, clock(setup.device)))
        return {"steps of each": rounds}

    yield Check("all in turns", run, RACING)
    for name in found:
        yield Check(name, partial(compared, name, field.entered, found))


def compared(name: str, entered: Mapping[str, Contender], times: Mapping[str, Times]) -> Cells:
    """Milliseconds, and how many times those of the plain model and of the minimum, which are eager or
    compiled as the contender is."""
    own, contender = times[name], entered[name]
    how = "compiled" if contender.compiled else "eager"
    cells: Cells = {"step, ms": own.device, "host, ms": own.host}
    for base in ("plain", "minimum"):
        other = times.get(f"{base}, {how}")
        cells[f"x {base}"] = own.device / other.device if other and other.device else ""
    if contender.cached is not None:
        hits = contender.cached.stats()[contender.context].hits
        if set(hits[3:]) != {contender.kind != "miss"}:
            raise CheckFailed(f"hits are {hits}", cells)
    return cells
