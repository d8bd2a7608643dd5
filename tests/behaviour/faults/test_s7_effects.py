"""Operators that a graph of values cannot hold are refused by name; marks of profilers are dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import fxcache
from fxcache.errors import CaptureError
from tests.behaviour.faults.base import EAGER, NEVER, WIDTH, Base, Block, build, equal_uncached, sample


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of this process only."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def reduced(x: Tensor) -> Tensor:
    dist.all_reduce(x)
    return x


def gathered(x: Tensor) -> Tensor:
    parts = [torch.empty_like(x)]
    dist.all_gather(parts, x)
    return parts[0]


def broadcast(x: Tensor) -> Tensor:
    dist.broadcast(x, 0)
    return x


@pytest.mark.parametrize("collective", [reduced, gathered, broadcast])
def test_s7_collectives_in_place(collective: Callable[[Tensor], Tensor], alone: None) -> None:
    class Model(Base):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return super().forward(collective(x * 1.0), timestep)

    with torch.no_grad(), pytest.raises(CaptureError, match="c10d"):
        fxcache.transform(build(Model), NEVER)(*sample()[0])


def test_s7_an_operator_that_gives_nothing() -> None:
    with torch.library._scoped_library("fxcache_s7", "FRAGMENT") as library:
        library.define("announce(Tensor x) -> ()")
        library.impl("announce", lambda x: None, "CompositeExplicitAutograd")

        class Model(Base):
            def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
                torch.ops.fxcache_s7.announce(x)
                return super().forward(x, timestep)

        with torch.no_grad(), pytest.raises(CaptureError, match="announce"):
            fxcache.transform(build(Model), NEVER)(*sample()[0])


class Noisy(Block):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.rand_like(x)


def same_draws(model: nn.Module) -> None:
    cached = fxcache.transform(model, NEVER)
    with torch.no_grad():
        for call in sample():
            torch.manual_seed(3)
            mine = cached(*call)
            torch.manual_seed(3)
            assert torch.equal(mine, model(*call))


def test_s7_random_numbers_in_the_glue() -> None:
    class Model(Base):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            x = x + torch.rand_like(x)
            x = super().forward(x, timestep)
            return x + torch.randn(x.shape)

    same_draws(build(Model))


def test_s7_random_numbers_in_blocks() -> None:
    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Noisy() for _ in range(4))

    same_draws(build(Model))


def test_s7_random_numbers_that_would_be_taken_in_another_order() -> None:
    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Noisy() for _ in range(4))

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            late = torch.rand_like(x)  # drawn first, used last
            return super().forward(x, timestep) + late

    with pytest.raises(CaptureError, match="random numbers in another order"):
        same_draws(build(Model))


def test_s7_random_numbers_that_nobody_uses() -> None:
    class Model(Base):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            torch.rand(3)
            return super().forward(x + torch.rand_like(x), timestep)

    with pytest.raises(CaptureError, match="random numbers in another order"):
        same_draws(build(Model))


def test_b16_record_function() -> None:
    class Model(Base):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            with torch.profiler.record_function("all"):
                for i, block in enumerate(self.blocks):
                    with torch.autograd.profiler.record_function(f"block {i}"):
                        x = block(x)
            return x

    equal_uncached(build(Model), sample())


class Headed(Base):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.head(super().forward(x, timestep))


class Tabled(Headed):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.ones(WIDTH))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return super().forward(x, timestep) * self.table


@pytest.mark.filterwarnings("ignore:.*broadcast_buffers")  # who runs torch 2.13 and before writes it so
@pytest.mark.parametrize(("kind", "options"), [(Headed, {}), (Tabled, {"broadcast_buffers": False})])
def test_b16_data_parallel(kind: type[Base], options: dict[str, bool], alone: None) -> None:
    model = build(kind).requires_grad_(True)
    parallel: Any = nn.parallel.DistributedDataParallel(model, **options)
    equal_uncached(parallel, sample())
    cached = fxcache.transform(parallel, EAGER)
    with torch.no_grad():
        for x, t in sample():
            cached(x, timestep=t)  # the wrapper's signature has no names
    assert sum(cached.stats()["default"].segments[0].hits) == 3


def test_b16_data_parallel_that_sends_buffers_around_is_refused(alone: None) -> None:
    parallel: Any = nn.parallel.DistributedDataParallel(build(Tabled).requires_grad_(True))
    with torch.no_grad(), pytest.raises(CaptureError, match=r"c10d\.broadcast_"):
        fxcache.transform(parallel, EAGER)(*sample()[0])
