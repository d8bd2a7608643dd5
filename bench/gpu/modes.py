"""Every mode of `fxcache.compile` against the same cached model, eager."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace

import torch

import fxcache
from fxcache import CachedTransformer
from fxcache.backends.inductor import Mode
from fxcache.errors import BackendError

from .rows import Cells, Check, CheckFailed, NotHere
from .settings import NOTHING, OTHER, SETTINGS, STEPS, Setting
from .setup import Setup
from .subjects import Subject, short
from .trajectories import LIMIT, Run, plain, require_alike, run

COMPILING = 40.0  # seconds, generously: a mode of a short model
BY_IMPORTANCE: tuple[Mode, ...] = ("fused", "reduce-overhead", "single", "staged")
QUICK = ("plan", "follower")  # the settings that --quick compiles


def modes(setup: Setup) -> Iterator[Check]:
    """DBCache with TaylorSeer in every mode, and nothing cached."""
    bench = Bench(short(setup), setup)
    yield Check(f"nothing cached, against the plain model; {bench.subject.title}", bench.nothing)
    yield from (bench.check(SETTINGS[0], mode) for mode in setup.modes)


def settings(setup: Setup) -> Iterator[Check]:
    """The other settings: eager, and in every mode, those first that matter most."""
    bench = Bench(short(setup), setup)
    for setting in SETTINGS[1:]:
        yield Check(f"{setting.name}, eager", functools.partial(bench.eagerly, setting))
    if setup.quick:
        yield from (bench.check(setting, "fused") for setting in SETTINGS[1:] if setting.name in QUICK)
        return
    for mode in BY_IMPORTANCE:
        yield from (bench.check(setting, mode) for setting in SETTINGS[1:])


class Bench:
    """A model, and its eager cached forms, each made once."""

    def __init__(self, subject: Subject, setup: Setup) -> None:
        self.subject, self._setup = subject, setup
        self._eager: dict[str, CachedTransformer] = {}

    def check(self, setting: Setting, mode: Mode) -> Check:
        """That of a setting in a mode."""
        return Check(f"{setting.name}, {mode}", lambda: self.verify(setting, mode), COMPILING)

    def eager(self, setting: Setting) -> CachedTransformer:
        """The setting's model, with no trajectory begun."""
        if setting.name not in self._eager:
            self._eager[setting.name] = fxcache.transform(self.subject.model, setting.config())
        model = self._eager[setting.name]
        model.configure(setting.config())
        model.reset()
        return model

    def nothing(self) -> Cells:
        """With a threshold of 0, bitwise the plain model."""
        model = self.eager(SETTINGS[0])
        model.configure(NOTHING)
        found = run(model, self.subject)
        cells: Cells = {"hits": found.cached}
        same = all(map(torch.equal, found.outputs, plain(self.subject)))
        if not same or found.cached != "none":
            raise CheckFailed("not bitwise the plain model", cells)
        return cells

    def eagerly(self, setting: Setting) -> Cells:
        """There are hits and misses, and a second trajectory is like the first."""
        model = self.eager(setting)
        first = run(model, self.subject, setting.contexts)
        second = run(model, self.subject, setting.contexts)
        cells: Cells = {"hits": first.cached}
        for name, hits in first.hits.items():
            if all(hits) or not any(hits):
                raise CheckFailed(f"hits of {name} are {hits}: nothing is tried", cells)
        if second.hits != first.hits or not all(map(torch.equal, first.outputs, second.outputs)):
            raise CheckFailed("a second trajectory differs from the first", cells)
        return cells

    def verify(self, setting: Setting, mode: Mode) -> Cells:
        """Several trajectories against eager: numbers, decisions, where one ends. The first compiles; after
        it neither further contexts nor `configure` may compile anything."""
        eager, subject = self.eager(setting), self.subject
        compiled = compile_in(self._setup, fxcache.transform(subject.model, setting.config()), mode)
        expected = run(eager, subject, setting.contexts)
        cells: Cells = {"hits": expected.cached, "limit": LIMIT[subject.dtype]}
        cells["error"] = require_alike(run(compiled, subject, setting.contexts), expected, subject.dtype)
        with torch.compiler.set_stance("fail_on_recompile"):
            for what in ("a second trajectory", "a third"):  # no reset(): time says that it is one
                require_alike(run(compiled, subject, setting.contexts), expected, subject.dtype, what)
            cells["restart"] = "same"
            if setting is SETTINGS[0]:
                require_alike(
                    _in_turns(compiled, subject), _in_turns(eager, subject), subject.dtype, "contexts"
                )
                cells["two contexts"] = "apart"
                cells["configure()"] = self._configured(compiled, eager, expected)
        return cells

    def _configured(self, compiled: CachedTransformer, eager: CachedTransformer, before: Run) -> str:
        for model in (compiled, eager):
            model.configure(OTHER)
        found, expected = run(compiled, self.subject), run(eager, self.subject)
        if expected.hits == before.hits:
            raise CheckFailed("configure() changed nothing")
        require_alike(found, expected, self.subject.dtype, "after configure()")
        return f"hits {expected.cached}, nothing compiled"


def compile_in(setup: Setup, cached: CachedTransformer, mode: Mode) -> CachedTransformer:
    """Compiled, or `NotHere` where this device need not have the mode."""
    try:
        return fxcache.compile(cached, mode=mode, backend=setup.backend)
    except BackendError as error:
        if setup.may_refuse(mode):
            raise NotHere(str(error)) from error
        raise


def _in_turns(model: CachedTransformer, subject: Subject) -> Run:
    """Two trajectories that take turns, from other noise each."""
    other = replace(subject, start=subject.end, end=subject.start)
    model.reset()
    outputs = []
    with torch.no_grad():
        for step in range(STEPS):
            for name, one in (("one", subject), ("other", other)):
                with model.cache_context(name):
                    outputs.append(model(**one.call(step, STEPS))[0])
    return Run(outputs, {name: model.stats()[name].hits for name in ("one", "other")})
