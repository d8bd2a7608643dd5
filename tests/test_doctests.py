"""Every public function and class is documented, with an example, and every example is right.

An example runs in an empty namespace, as it would in a reader's own session.
"""

from __future__ import annotations

import doctest
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fxcache

PACKAGES = (
    "fxcache.api",
    "fxcache.calibration",
    "fxcache.embedded",
    "fxcache.forecasters",
    "fxcache.ops",
    "fxcache.passes",
    "fxcache.plans",
)
MODULES = (
    "fxcache",
    "fxcache.config",
    "fxcache.errors",
    "fxcache.ir.draw",
    "fxcache.ir.interpret",
    "fxcache.ir.keys",
    "fxcache.ir.printer",
    "fxcache.notation",
    "fxcache.package.packaged_transformer",
    "fxcache.policies.follow",
    "fxcache.runtime.cached_transformer",
    "fxcache.runtime.diffusers_pipeline",
    "fxcache.runtime.graph_view",
    "fxcache.runtime.stats",
)
BEHIND_COMMANDS = (  # nobody imports these: not every object has an example, but all examples are right
    *(f"fxcache.gallery.{name}" for name in ("comparison", "likeness", "media", "sheet", "source", "steps")),
    *(f"fxcache.preparation.{name}" for name in ("caught", "conventional", "named", "served", "sizes")),
    "fxcache.gallery.spectrogram",
    "fxcache.integrations.denoisers",
    "fxcache.integrations.settings",
)
COMPILED = {  # their examples run a compiler: run by `pytest -m full`
    "fxcache.api.compile",
    "fxcache.api.export",
    "fxcache.api.load",
    "fxcache.package.packaged_transformer",
}
DRAWN = {"fxcache.ir.draw", "fxcache.runtime.graph_view"}  # need the optional package graphviz
CALLED = "forward"  # a module's method that examples call by calling the module
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def names() -> list[str]:
    """The modules whose names users or authors of passes import, and those behind `fxcache.__all__`."""
    found = {*MODULES, *PACKAGES, *(getattr(fxcache, name).__module__ for name in fxcache.__all__)}
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        found |= {m.name for m in pkgutil.walk_packages(path, f"{package}.")}
    return sorted(found)


def public(module: ModuleType) -> dict[str, Any]:
    """The functions and classes that a module defines, by their names in it."""
    return {
        name: value
        for name, value in vars(module).items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }


def members(kind: type) -> dict[str, Any]:
    """The public methods and properties that a class itself defines; not defaults of a dataclass's fields."""
    wrapped = (property, functools.cached_property, staticmethod, classmethod)
    return {
        name: value
        for name, value in vars(kind).items()
        if not name.startswith("_")
        and name not in getattr(kind, "__dataclass_fields__", ())
        and (inspect.isfunction(value) or isinstance(value, wrapped))
    }


def text(value: Any) -> str:
    return inspect.getdoc(value) or ""


def documented(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Names of a module's objects, itself and private ones too, and what is written of each."""
    yield module.__name__, text(module)
    for name, value in vars(module).items():
        if not (inspect.isfunction(value) or inspect.isclass(value)):
            continue
        if value.__module__ != module.__name__:
            continue
        yield f"{module.__name__}.{name}", value.__doc__ or ""
        if inspect.isclass(value):
            for member, part in members(value).items():
                yield f"{module.__name__}.{name}.{member}", part.__doc__ or ""


def sources(written: str) -> str:
    """The code of the examples in a docstring."""
    return "".join(example.source for example in doctest.DocTestParser().get_examples(written))


def cases() -> list[Any]:
    marks = {True: [pytest.mark.full], False: []}
    return [pytest.param(name, marks=marks[name in COMPILED]) for name in (*names(), *BEHIND_COMMANDS)]


@pytest.mark.parametrize("name", cases())
def test_examples_are_right(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in DRAWN:
        pytest.importorskip("graphviz")
    monkeypatch.chdir(tmp_path)  # some write files
    runner, failures = doctest.DocTestRunner(optionflags=OPTIONS), list[str]()
    for where, written in documented(importlib.import_module(name)):
        test = doctest.DocTestParser().get_doctest(inspect.cleandoc(written), {}, where, None, 0)
        runner.run(test, out=failures.append)
    assert not failures, "\n".join(failures)


def test_no_example_is_skipped() -> None:
    written = [pair for name in names() for pair in documented(importlib.import_module(name))]
    assert not [where for where, words in written if "+SKIP" in words]


def missing(module: ModuleType) -> Iterator[str]:
    """What a reader of the module's public objects would look for in vain."""
    for name, value in public(module).items():
        where, written = f"{module.__name__}.{name}", value.__doc__ or ""
        if inspect.isclass(value) and issubclass(value, BaseException):
            if not any(word in written for word in ("Raised", "Warned")):
                yield f"{where} does not say when it is raised"
            continue
        if getattr(value, "_is_protocol", False):  # what others are to have: nothing to run
            if not written:
                yield f"{where} is not documented"
            continue
        if not sources(written):
            yield f"{where} has no example"
        if inspect.isclass(value):
            for member in members(value):
                part = text(getattr(value, member))  # inherited, where it only overrides
                if not part:
                    yield f"{where}.{member} is not documented"
                elif member != CALLED and not (sources(part) or f".{member}" in sources(written)):
                    yield f"{where}.{member} is in no example"


@pytest.mark.parametrize("name", names())
def test_every_public_object_has_an_example(name: str) -> None:
    assert not list(missing(importlib.import_module(name)))
