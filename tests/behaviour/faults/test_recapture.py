"""Recapture is bounded, logged and explained; one odd call does not switch the cache off (B3)."""

from __future__ import annotations

import dataclasses
import gc
import logging
import re
import types
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

import fxcache
from fxcache import CacheConfig
from fxcache.capture.symbolic_reads import ReadEnv
from fxcache.errors import CaptureError, PassthroughWarning, RecaptureWarning, TooManyCapturesError
from fxcache.ir.fake_results import RESULTS
from tests.behaviour.faults.base import EAGER, NEVER, WIDTH, Base, build, sample


class Moded(Base):
    """Takes a mode, which decides what happens, and an option, which is read."""

    def forward(self, x: Tensor, timestep: Tensor, mode: str = "plain", option: Any = None) -> Tensor:
        if mode == "odd" and x.sum() > 0:
            x = self.blocks[0](x) * x.mean().item()
            x = x * x.max().item()
        if option is not None:
            x = x * len(str(option))
        return super().forward(x, timestep)


class Static(Base):
    """Fixes the sizes that it is called with."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return super().forward(x + int(x.shape[1]), timestep)


def one(caught: Any) -> bool:
    return sum(issubclass(w.category, PassthroughWarning) for w in caught) == 1


def captures(cached: Any) -> int:
    return len(cached._specializations.all())


def test_b3_one_odd_call_leaves_others_cached() -> None:
    model = build(Moded)
    cached = fxcache.transform(model, EAGER, on_unsupported="passthrough")
    odd = types.SimpleNamespace(factors=iter([2.0]))
    with torch.no_grad():
        x, timestep = sample(1)[0]
        with pytest.warns(PassthroughWarning, match=r"option.*list_iterator"):
            assert torch.equal(cached(x, timestep, option=odd), model(x, timestep, option=odd))
        for x, timestep in sample(4):
            cached(x, timestep)
        assert len(cached.stats()["default"].cached_steps) == 3


def test_b3_a_mode_that_cannot_be_captured_leaves_others_cached() -> None:
    model = build(Moded)
    cached = fxcache.transform(model, EAGER, on_unsupported="passthrough")
    x, timestep = sample(1)[0]
    x = x.abs()
    with torch.no_grad():
        with pytest.warns(PassthroughWarning, match="cannot be captured") as caught:
            for _ in range(3):
                assert torch.equal(cached(x, timestep, "odd"), model(x, timestep, "odd"))
        assert one(caught)
        for x, timestep in sample(4):
            cached(x, timestep)
    assert len(cached.stats()["default"].cached_steps) == 3


def test_b3_what_was_refused_is_not_tried_on_every_call_and_again_after_reset(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = build(Moded)
    cached = fxcache.transform(model, EAGER, on_unsupported="passthrough")
    x, timestep = sample(1)[0]

    def tries() -> int:
        return sum("capturing" in r.getMessage() for r in caplog.records)

    with torch.no_grad(), caplog.at_level(logging.INFO, "fxcache"), warnings.catch_warnings():
        warnings.simplefilter("ignore", PassthroughWarning)
        for _ in range(3):
            cached(x.abs(), timestep, "odd")
        assert tries() == 1
        cached.reset()
        cached(x.abs(), timestep, "odd")
        assert tries() == 2


def test_captures_are_explained(caplog: pytest.LogCaptureFixture) -> None:
    model = build(Moded)
    cached = fxcache.transform(model, NEVER)
    x, timestep = sample(1)[0]
    calls = [
        (lambda: cached(x, timestep), "the first call"),
        (lambda: cached(x, timestep, "other"), r"'mode' changed from nothing to 'other'"),
        (lambda: cached(x, timestep, "plain"), r"'mode' changed from 'other' to 'plain'"),
        (lambda: cached(x, timestep, "other", [1, 2.5]), "'option"),
        (lambda: cached(x, timestep, "other", [1, 3.5]), r"'option\[1\]' changed from 2.5 to 3.5"),
        (lambda: cached(x, timestep.double()), r"'timestep' changed from a tensor .*float32.*float64"),
        (lambda: cached(x[:, :1], timestep), r"the sizes of 'x' changed from \(1, 5, 8\) to \(1, 1, 8\)"),
    ]
    with torch.no_grad(), caplog.at_level(logging.INFO, "fxcache"):
        for call, reason in calls:
            caplog.clear()
            call()
            (record,) = [r for r in caplog.records if r.name == "fxcache"]
            assert record.levelno == logging.INFO
            assert re.search(reason, record.getMessage()), record.getMessage()


def test_a_value_that_always_changes_raises_by_name_and_other_calls_go_on() -> None:
    model = build(Moded)
    cached = fxcache.transform(model, NEVER, max_captures=3)
    x, timestep = sample(1)[0]
    with torch.no_grad():
        for i in range(3):
            assert torch.equal(cached(x, timestep, f"m{i}"), model(x, timestep, f"m{i}"))
        for i in range(3, 6):
            with pytest.raises(TooManyCapturesError, match=r"'mode' changed from 'm\d' to 'm3'"):
                cached(x, timestep, f"m{i}")
        assert torch.equal(cached(x, timestep, "m1"), model(x, timestep, "m1"))
        assert torch.equal(cached(x, timestep), model(x, timestep))
        cached.reset()
        cached(x, timestep, "m1")
        assert torch.equal(cached(x, timestep, "m9"), model(x, timestep, "m9"))
    assert issubclass(TooManyCapturesError, CaptureError)


def test_a_value_that_always_changes_runs_uncached_with_one_warning() -> None:
    model = build(Moded)
    cached = fxcache.transform(model, EAGER, max_captures=3, on_unsupported="passthrough")
    x, timestep = sample(1)[0]
    with torch.no_grad():
        with pytest.warns(RecaptureWarning, match="'mode' changed") as caught:
            for i in range(8):
                assert torch.equal(cached(x, timestep, f"m{i}"), model(x, timestep, f"m{i}"))
        assert one(caught)
        assert captures(cached) == 3
        for x, timestep in sample(4):
            cached(x, timestep)
        assert len(cached.stats()["default"].cached_steps) == 3


def test_values_that_come_again_are_served_and_the_least_used_graph_goes() -> None:
    model = build(Moded)
    cached = fxcache.transform(model, NEVER, max_captures=3)
    x, timestep = sample(1)[0]
    with torch.no_grad():
        for mode in ("a", "a", "b", "b", "c", "c", "a", "d", "d", "a", "e"):
            assert torch.equal(cached(x, timestep, mode), model(x, timestep, mode))
    assert captures(cached) == 3
    modes = [part[2] for v in cached._specializations.all() for part in v.key if "mode" in str(part)]
    assert sorted(modes) == ["a", "d", "e"]


class Ended(Static):
    """What follows its blocks goes by the time, and by a table that its code makes."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        table = torch.tensor([1.0, 2.0])
        return self.last(super().forward(x, timestep)) * table[0] + timestep * table[1]


@pytest.mark.parametrize("setting", ["F1B0", "F1B1", "output", "hidden_states"])
def test_a_run_goes_on_when_its_graph_was_dropped_amid_it(setting: str) -> None:
    plan = fxcache.plan(steps=6, speedup=2.0)
    settings = {
        "F1B0": CacheConfig.from_string("F1B0_W1M0MC2_T1O1_R1000"),
        "F1B1": CacheConfig.from_string("F1B1_W1M0MC2_T1O1_R1000"),
        "output": CacheConfig.from_plans(plan),
        "hidden_states": CacheConfig.from_plans(dataclasses.replace(plan, level="hidden_states")),
    }
    config, model = settings[setting], build(Ended)
    alone, among = fxcache.transform(model, config), fxcache.transform(model, config, max_captures=2)
    with torch.no_grad():
        for i, (x, timestep) in enumerate(sample(6)):
            with among.cache_context("run"):
                assert torch.equal(among(x, timestep), alone(x, timestep)), i
            for tokens in (3, 4, 6):
                with among.cache_context(f"{tokens} tokens"):
                    among(*sample(1, tokens=tokens)[0])
    assert captures(among) == 2
    assert among.stats()["run"].cached_steps == alone.stats()["default"].cached_steps != []


def objects() -> int:
    FakeTensorMode.cache_clear()  # torch's own, of what operators return for each shape
    RESULTS.clear()  # and ours, which is bounded
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.parametrize("kind", [Base, Static])
def test_a_thousand_sizes_take_bounded_memory(kind: type[Base]) -> None:
    model = build(kind, seed=1)
    cached = fxcache.transform(model, NEVER, max_captures=2)
    many = 1000 if kind is Base else 24
    timestep = torch.ones(1)
    counts = []
    with torch.no_grad():
        for n in range(2, 2 + many):
            x = torch.randn(1, n, WIDTH)
            assert torch.equal(cached(x, timestep), model(x, timestep))
            if n in (many // 2, many):
                counts.append(objects())
    assert captures(cached) <= 2
    assert counts[1] <= counts[0] * 1.05 + 2000
    specializations = cached._specializations
    assert len(specializations._by_call) <= 256
    assert all(len(v.symbols) <= 256 for v in specializations.all())


def test_no_environment_outlives_its_capture() -> None:
    """It holds the tensors of the call."""

    def alive() -> int:
        gc.collect()
        return sum(type(o) is ReadEnv for o in gc.get_objects())

    before = alive()
    x, timestep = sample(1)[0]
    for _ in range(3):
        with torch.no_grad():
            fxcache.transform(build(Base), NEVER)(x, timestep)
    assert alive() == before


def test_captures_leave_nothing_of_what_operators_returned() -> None:
    """Symbols stay in torch's own function caches for good; they must not hold on to more than themselves."""

    def kept() -> int:
        gc.collect()
        return sum(len(o.fake_tensor_cache) for o in gc.get_objects() if type(o) is ReadEnv)

    before = kept()
    x, timestep = sample(1)[0]
    for _ in range(3):
        with torch.no_grad():
            fxcache.transform(build(Base), NEVER)(x, timestep)
    assert kept() == before


def test_max_captures_must_be_positive() -> None:
    with pytest.raises(fxcache.errors.ConfigError, match="max_captures"):
        fxcache.transform(build(Base), NEVER, max_captures=0)
