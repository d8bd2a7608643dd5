"""A capture has to know what Python code the forward runs, also where somebody profiles the program."""

from __future__ import annotations

import cProfile
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import fxcache
from fxcache.errors import CaptureError
from tests.behaviour.faults.base import NEVER, Base, build, sample


class Helper:
    scale = 1.0


class Model(Base):
    """Reads an object that it holds, and counts its calls on it."""

    def __init__(self) -> None:
        super().__init__()
        self.helper = Helper()
        self.helper.calls = 0

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        self.helper.calls += 1
        return super().forward(x * self.helper.scale + 0.1 * self.helper.calls, timestep)


@contextmanager
def c_profile() -> Iterator[Any]:
    profiler = cProfile.Profile()
    with profiler:
        yield lambda: profiler.getstats()


@contextmanager
def function() -> Iterator[Any]:
    seen: list[str] = []
    sys.setprofile(lambda frame, event, argument: seen.append(event))
    try:
        yield lambda: seen
    finally:
        sys.setprofile(None)


def follows(model: Any, cached: Any) -> None:
    with torch.no_grad():
        for i, (x, t) in enumerate(sample()):
            model.helper.scale = cached.helper.scale = 1.0 + i // 2
            assert torch.equal(cached(x, t), model(x, t))
    assert cached.helper.calls == model.helper.calls


@pytest.mark.parametrize("profiler", [c_profile, function])
def test_a_model_that_is_profiled_is_watched(profiler: Any) -> None:
    model, cached = build(Model), fxcache.transform(build(Model), NEVER)
    with profiler() as result:
        active = sys.getprofile()
        follows(model, cached)
        assert sys.getprofile() is active
        assert result()
    assert sys.getprofile() is None


def test_a_profiler_that_cannot_share_is_named() -> None:
    model = build(Base)
    cached = fxcache.transform(model, NEVER)
    x, t = sample()[0]
    refused = pytest.raises(CaptureError, match=r"a profiler .* start it after the first call")
    with torch.profiler.profile(with_stack=True), refused:
        cached(x, t)
    assert torch.equal(cached(x, t), model(x, t))
    with torch.profiler.profile(with_stack=True):
        assert torch.equal(cached(x, t), model(x, t))
