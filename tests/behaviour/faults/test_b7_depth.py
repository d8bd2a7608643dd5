"""B7: graphs that are deep: hundreds of blocks, thousands of operators in a row, wherever they are."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import fxcache
from tests.sweep import sweep

from .base import EAGER, Base, Block, build, equal_uncached, sample

DEEP = 300  # blocks; with ten operators between, three times Python's recursion limit
BEYOND = 110  # the same are more than it


@pytest.fixture(autouse=True)
def usual_limit() -> Iterator[None]:
    """Python's own, whatever other tests and libraries have set."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    yield
    sys.setrecursionlimit(before)


def glue(x: Tensor, count: int) -> Tensor:
    """`count` operators in a row that lead back to where they started, rounding aside."""
    for i in range(count):
        x = -x if i % 2 else -1.0 * x
    return x


class Between(Base):
    """Ten operators between any two blocks."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        for block in self.blocks:
            x = glue(block(x), 10)
        return x


class Before(Base):
    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        x = glue(x, 3000)
        for block in self.blocks:
            x = block(x)
        return x


class Behind(Base):
    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return glue(x, 3000)


class Beside(Base):
    """A second stream of glue alone, and a size that is counted on from block to block."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        shift, count = timestep.reshape(-1, 1, 1) * 1e-4, x.shape[1]
        for block in self.blocks:
            x = block(x + shift)
            shift, count = glue(shift, 4), count + 1
        return x * (count - x.shape[1])


class InPlace(Base):
    """Writes in place, so that the graph is traced a second time."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        x = x * 1.0
        for block in self.blocks:
            x = block(x)
            for _ in range(10):
                x.mul_(-1.0)
        return x


class Kept(Base):
    """Every block's output is used again at the end, as in a U-Net."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        kept = []
        for block in self.blocks:
            x = glue(block(x), 10)
            kept.append(x)
        for value in reversed(kept):
            x = glue(x * 0.5 + value * 0.5, 4)
        return x


DEEP_ONES = (Between, Before, Behind, Beside, InPlace, Kept)


WAYS = [(Between, BEYOND), *((kind, DEEP) for kind in DEEP_ONES)]


@pytest.mark.parametrize(("kind", "blocks"), sweep(WAYS, WAYS[:1], ids=lambda w: f"{w[0].__name__}-{w[1]}"))
def test_b7_many_blocks_with_glue(kind: type[Base], blocks: int) -> None:
    model, calls = build(lambda: kind(blocks)), sample()
    started = time.process_time()
    equal_uncached(model, calls)
    cached = fxcache.transform(model, EAGER)
    with torch.no_grad():
        outputs = [cached(*call) for call in calls]
    assert cached.stats()["default"].cached_steps == (1, 2, 3)
    assert all(out.isfinite().all() for out in outputs)
    assert time.process_time() - started < 120  # a pass that is quadratic in the operators takes longer


def test_b7_passes_are_near_linear() -> None:
    """Four times the blocks take about four times as long, not sixteen."""

    def seconds(blocks: int) -> float:
        model, call = build(lambda: Between(blocks)), sample()[0]
        started = time.process_time()
        with torch.no_grad():
            fxcache.transform(model, EAGER)(*call)
        return time.process_time() - started

    seconds(4)  # imports
    few, many = seconds(40), seconds(160)
    assert many < 9 * few


@pytest.mark.full
def test_b7_two_lists_and_bn_blocks() -> None:
    class TwoLists(Base):
        def __init__(self) -> None:
            super().__init__(150)
            self.more = torch.nn.ModuleList(Block() for _ in range(150))

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            for block in (*self.blocks, *self.more):
                x = glue(block(x), 10)
            return x

    model, calls = build(TwoLists), sample()
    equal_uncached(model, calls, scope="list")
    cached = fxcache.transform(model, "F2B2_W0M0MC0_T1O1_R1000", scope="list")
    with torch.no_grad():
        for call in calls:
            cached(*call)
    bound = {"x": calls[0][0], "timestep": calls[0][1]}
    assert "150" in str(fxcache.explain(model, EAGER, bound, scope="list"))
    assert str(cached.graph)
