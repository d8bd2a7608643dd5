"""`explain` and `prepare` run what their docstrings say, and count no step."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

import fxcache

CONFIG = "F1B0_W1M0MC1_T1O1_R0.5"
INPUTS = {"x": torch.ones(1, 3, 8), "timestep": torch.ones(1)}


class Noted(nn.Module):
    """Notes its calls in a pipe: what a forward stores in Python is put back after a capture."""

    def __init__(self, pipe: int, reads: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4))
        self.pipe, self.reads = pipe, reads

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        os.write(self.pipe, b"f" if isinstance(x, FakeTensor) else b"r")
        if self.reads and timestep.numpy().sum() > 100:
            x = x + 1
        for block in self.blocks:
            x = block(x)
        return x


@contextmanager
def noted(reads: bool) -> Iterator[tuple[nn.Module, Callable[[], bytes]]]:
    """A model, and what tells which of its calls since the last time were on fake and on real tensors."""
    source, sink = os.pipe()
    os.set_blocking(source, False)

    def calls() -> bytes:
        try:
            return os.read(source, 100)
        except BlockingIOError:
            return b""

    try:
        yield Noted(sink, reads).eval().requires_grad_(False), calls
    finally:
        os.close(source)
        os.close(sink)


@pytest.mark.parametrize("reads", [False, True])
def test_explain(reads: bool) -> None:
    with noted(reads) as (model, calls):
        found = fxcache.explain(model, CONFIG, INPUTS)
        assert calls() == (b"ffr" if reads else b"f")
        assert found.captured.startswith("on real tensors" if reads else "on fake tensors")


@pytest.mark.parametrize("reads", [False, True])
def test_explain_of_a_cached_model_touches_no_state(reads: bool) -> None:
    with noted(reads) as (model, calls):
        cached = fxcache.transform(model, CONFIG)
        cached(**INPUTS)
        before, served = calls(), cached.stats()
        fxcache.explain(cached, CONFIG, INPUTS)
        assert calls() == before  # captured anew
        assert cached.stats() == served


@pytest.mark.parametrize("reads", [False, True])
def test_prepare(reads: bool) -> None:
    with noted(reads) as (model, calls):
        cached = fxcache.transform(model, CONFIG)
        cached.prepare(INPUTS)
        assert calls() == (b"ffr" if reads else b"f")
        assert cached.stats().steps == 0 and cached.stats().state_bytes == 0
        cached.prepare(INPUTS)
        cached(**INPUTS)
        assert calls() == b""  # the graph was there


def test_prepare_counts_no_uncached_step() -> None:
    cached = fxcache.transform(nn.Identity(), CONFIG, on_unsupported="passthrough")
    with pytest.warns(UserWarning, match="runs uncached"):
        cached.prepare({"input": torch.ones(1)})
    assert cached.stats().steps == 0
    cached(torch.ones(1))
    assert cached.stats().steps == 1
