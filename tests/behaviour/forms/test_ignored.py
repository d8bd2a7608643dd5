"""`transform(ignore=)`: options on which no graph depends, and what looks at one nevertheless."""

from __future__ import annotations

import collections
import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import fxcache
from fxcache.errors import ConfigError, IgnoredInputError, IgnoredOptionWarning
from tests.behaviour.faults.base import EAGER, NEVER, Base, build, sample


class Optional(Base):
    """Hands its options about, and adds what it finds at `by`."""

    def forward(self, x: Tensor, timestep: Tensor, options: Any = None) -> Tensor:
        kept = copy.copy(options)
        return super().forward(x + (1 if kept is None else 2), timestep)


class Looking(Base):
    look: Callable[[Any], Any]

    def forward(self, x: Tensor, timestep: Tensor, options: Any = None) -> Tensor:
        found = self.look(options["name"])
        return super().forward(x + (1 if found else 2), timestep)


@dataclass
class Settings:
    name: Any
    scale: float = 1.0


class Pair(NamedTuple):
    name: Any
    scale: float = 1.0


HOLDERS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "the argument": ("options", lambda value: value),
    "a dict": ("options.name", lambda value: {"name": value, "scale": 1.0}),
    "dicts": ("options.a.b.name", lambda value: {"a": {"b": {"name": value}}, "scale": 1.0}),
    "another mapping": ("options.name", lambda value: collections.OrderedDict(name=value)),
    "a list": ("options.a.1", lambda value: {"a": [0, value]}),
    "a tuple": ("options.0", lambda value: (value, 1)),
    "a named tuple": ("options.name", Pair),
    "a dataclass": ("options.name", Settings),
    "an object": ("options.a.name", lambda value: {"a": SimpleNamespace(name=value, scale=1.0)}),
}


@pytest.mark.parametrize("name", HOLDERS)
def test_calls_that_differ_in_it_share_a_graph(name: str) -> None:
    path, holder = HOLDERS[name]
    model = build(Optional)
    cached = fxcache.transform(model, EAGER, ignore=(path,))
    values = [object(), [1, 2], torch.zeros(3), "text"]  # of any kind, also what could not be compared
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", IgnoredOptionWarning)
        for (x, t), value in zip(sample(), values, strict=True):
            given = holder(value)
            shown = copy.copy(given)
            cached(x, t, given)
            assert given is value or given == shown or isinstance(given, dict)
    assert cached.stats()["default"].hits == (False, True, True, True)
    assert len(cached.specializations()) == 1


def test_other_options_count_as_before() -> None:
    cached = fxcache.transform(build(Optional), NEVER, ignore="options.name")
    with torch.no_grad():
        for name, scale in ((1, 1), (2, 1), (3, 2), (4, "text"), (None, 1)):
            cached(*sample()[0], {"name": name, "scale": scale})
    # A number that changed became an input of the graph; None is told apart, as `is None` would.
    assert len(cached.specializations()) == 4


LOOKS: Mapping[str, Callable[[Any], Any]] = {
    "truth": bool,
    "length": len,
    "iteration": list,
    "item": lambda value: value[0],
    "attribute": lambda value: value.version,
    "kind": lambda value: isinstance(value, str),
    "abstract kind": lambda value: isinstance(value, Mapping),
    "equality": lambda value: value == 1,
    "order": lambda value: value < 1,
    "membership": lambda value: 1 in value,
    "hash": lambda value: {value: 1},
    "text": str,
    "format": lambda value: f"{value}",
    "number": float,
    "sum": lambda value: value + 1,
    "call": lambda value: value(),
    "tensor": lambda value: torch.ones(1) * value,
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_model_that_looks_at_it_is_told(look: Callable[[Any], Any]) -> None:
    kind = type("Reading", (Looking,), {"look": staticmethod(look)})
    cached = fxcache.transform(build(kind), NEVER, ignore=["options.name"])
    with torch.no_grad(), pytest.raises((IgnoredInputError, fxcache.errors.CaptureError)) as error:
        cached(*sample()[0], {"name": 5})
    assert "options.name" in str(error.value)


def test_what_only_carries_it_may() -> None:
    kind = type("Carrying", (Looking,), {"look": staticmethod(lambda value: copy.deepcopy([value]))})
    cached = fxcache.transform(build(kind), NEVER, ignore=["options.name"])
    plain = fxcache.transform(build(kind), NEVER)
    with torch.no_grad():
        call = (*sample()[0], {"name": 5})
        assert torch.equal(cached(*call), plain(*call))


def test_a_path_that_is_in_no_call_is_told_once_with_what_there_is() -> None:
    cached = fxcache.transform(build(Optional), NEVER, ignore=("options.uuid", "options.a.b"))
    x, t = sample()[0]
    options = {"uuids": [1], "a": {"zebra": 1}}
    with torch.no_grad():
        with pytest.warns(IgnoredOptionWarning) as told:
            cached(x, t, options)
        cached(x, t, options)
    texts = [str(warning.message) for warning in told]
    assert "did you mean 'options.uuids'?" in texts[0] and "there is options.a.zebra" in texts[1]
    assert told[0].filename == __file__
    with pytest.warns(IgnoredOptionWarning, match="there is x, timestep"):
        fxcache.explain(build(Optional), NEVER, {"x": x, "timestep": t}, ignore=("options.uuid",))


def test_a_path_that_was_in_a_call_may_be_missing_later() -> None:
    cached = fxcache.transform(build(Optional), NEVER, ignore=("options.name",))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", IgnoredOptionWarning)
        cached(*sample()[0], {"name": 1})
        cached(*sample()[0], {"other": 1})
        cached(*sample()[0])
    assert len(cached.specializations()) == 3


def test_what_is_no_input_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="did you mean 'options'"):
        fxcache.transform(build(Optional), NEVER, ignore=("option.name",))
    with pytest.raises(ConfigError, match="its inputs are x, timestep, options"):
        fxcache.explain(build(Optional), NEVER, {}, ignore="zzz")
    cached = fxcache.transform(build(Optional), NEVER, ignore=("options.shape",))
    with torch.no_grad(), pytest.raises(ConfigError, match="cannot be copied with another value there"):
        cached(*sample()[0], {"shape": 1} and torch.zeros(1))
