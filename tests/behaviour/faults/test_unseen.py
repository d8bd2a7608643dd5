"""What a trace does not see of a forward: seeds, other threads, types, text, functions on elements."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache.errors import BlockMutationError, CaptureError, NoBlocksError
from tests.behaviour.faults.base import NEVER, WIDTH, Base, Block, build, equal_uncached, sample
from tests.sweep import sweep

Visit = Callable[[nn.Module, Tensor, Tensor], Tensor]
POOL = ThreadPoolExecutor(1)


def visiting(visit: Visit) -> Any:
    class Model(Base):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            for block in self.blocks:
                x = visit(block, x, timestep)
            return x

    return build(Model)


def seeds(block: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
    torch.manual_seed(3)
    return block(x + torch.randn(WIDTH))


def seeds_and_puts_back(block: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(int(timestep.sum()))
        return block(x + torch.randn(WIDTH))


def has_a_generator(block: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
    return block(x + torch.randn(x.shape, generator=torch.Generator().manual_seed(3)))


def seeds_for_others(block: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
    torch.manual_seed(3)
    return block(x)


def submits(block: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
    return POOL.submit(block, x).result()


def starts(block: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(block(x)))
    thread.start()
    thread.join()
    return found[0]


def submits_and_catches(block: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
    try:
        return POOL.submit(block, x).result()
    except Exception:
        return x


def by_element(block: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
    return block(x.clone().apply_(lambda v: 1.1 * v))


MODES = sweep((torch.no_grad, torch.inference_mode), (torch.inference_mode,), ids=lambda m: m.__name__)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("visit", "why"),
    [
        (seeds, r"sets random generators itself \(manual_seed\)"),
        (seeds_and_puts_back, "sets random generators itself"),
        (has_a_generator, "cannot be captured"),
        (seeds_for_others, "sets random generators itself"),
        (submits, r"in another thread \(submit\)"),
        (starts, r"in another thread \(start\)"),
        (submits_and_catches, "in another thread"),
        (by_element, r"on each element of a tensor \(apply_\)"),
    ],
)
def test_what_cannot_be_captured_is_refused_before_anything_is_returned(
    visit: Visit, why: str, mode: Callable[[], Any]
) -> None:
    model = visiting(visit)
    cached = fxcache.transform(model, NEVER)
    passing = fxcache.transform(model, NEVER, on_unsupported="passthrough")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with mode():
        for call in sample(2):
            with pytest.raises(CaptureError, match=why):
                cached(*call)
            assert torch.equal(torch.get_rng_state(), state)
        with pytest.warns(UserWarning):
            found = [passing(*call) for call in sample()]
        torch.set_rng_state(state)
        assert all(torch.equal(model(*call), one) for call, one in zip(sample(), found, strict=True))


def by_type(block: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
    return block(x) if type(x) is Tensor else 0.5 * block(x)


def by_class(block: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
    return block(x) if x.__class__ == torch.Tensor else 0.5 * block(x)


def by_text(block: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
    return block(x) * (1 + 0.01 * (len(str(timestep)) + len(f"{timestep}")))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("visit", [by_type, by_class, by_text])
def test_what_looks_at_tensors_themselves_sees_tensors(visit: Visit, mode: Callable[[], Any]) -> None:
    model = visiting(visit)
    cached = fxcache.transform(model, NEVER)
    with mode():
        for call in sample(6):
            assert torch.equal(cached(*call), model(*call))


def test_a_block_that_writes_through_numpy_is_refused() -> None:
    class Writing(Block):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            array = x.numpy()
            array += 1.0
            return y

    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Writing() for _ in range(4))

    with torch.no_grad(), pytest.raises(BlockMutationError, match="through numpy"):
        fxcache.transform(build(Model), NEVER)(*sample()[0])


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x)


def of_torchscript(compiled: Callable[[nn.Module], nn.Module]) -> Any:
    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(compiled(Scripted().eval()) for _ in range(4))

    return build(Model)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_blocks_are_equal() -> None:
    equal_uncached(of_torchscript(torch.jit.script), sample())


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_traced_blocks_are_refused() -> None:
    """`torch.jit.trace` leaves nothing of a block's class to find it by."""
    model = of_torchscript(lambda block: torch.jit.trace(block, sample()[0][0]))
    with torch.no_grad(), pytest.raises(NoBlocksError, match="no chain of repeated blocks"):
        fxcache.transform(model, NEVER)(*sample()[0])


def test_the_pythons_own_random_numbers_stay_refused() -> None:
    model = visiting(lambda block, x, timestep: block(x * random.random()))
    with torch.no_grad(), pytest.raises(CaptureError, match="draws random numbers"):
        fxcache.transform(model, NEVER)(*sample()[0])


def by_being_an_int(block: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
    return block(x) if all(isinstance(s, int) for s in (x.shape[1], x.size(1), x.numel())) else x


def by_its_type(block: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
    return block(x) if type(x.shape[1]) is int else x


def by_its_text(block: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
    return block(x) * (1 + 0.01 * len(f"{x.shape[1]} {x.size()} {x.stride(0)}"))


def by_its_entry(block: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
    return block(x) * {5: 1.0, 7: 2.0}.get(x.shape[1], 3.0)


@pytest.mark.parametrize("visit", [by_being_an_int, by_its_type, by_its_text, by_its_entry])
def test_what_looks_at_sizes_sees_numbers(visit: Visit) -> None:
    model = visiting(visit)
    cached = fxcache.transform(model, NEVER)
    with torch.no_grad():
        for tokens in (5, 7, 12, 5):
            for call in sample(2, tokens=tokens):
                assert torch.equal(cached(*call), model(*call))


def test_sizes_stay_open_where_they_are_taken_for_ints() -> None:
    cached = fxcache.transform(visiting(by_being_an_int), NEVER)
    with torch.no_grad():
        for tokens in range(5, 12):
            cached(*sample(1, tokens=tokens)[0])
    assert len(cached._specializations.all()) == 1
