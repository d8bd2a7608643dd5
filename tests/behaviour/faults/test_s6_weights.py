"""A forward that exchanges its blocks' parameters is refused, and the parameters stay as they were."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache.errors import CaptureError
from tests.behaviour.faults.base import NEVER, Base, build, equal_uncached, sample

Visit = Callable[[nn.Module, nn.Module, Tensor], Tensor]


def swapped(model: nn.Module, block: nn.Module, x: Tensor) -> Tensor:
    block.mix.weight.data = model.store[0]
    x = block(x)
    block.mix.weight.data = torch.zeros_like(model.store[0])
    return x


def cast_and_back(model: nn.Module, block: nn.Module, x: Tensor) -> Tensor:
    block.to(torch.bfloat16)
    x = block(x.bfloat16()).float()
    block.to(torch.float32)
    return x


def replaced(model: nn.Module, block: nn.Module, x: Tensor) -> Tensor:
    kept = block.mix.weight
    block.mix.weight = nn.Parameter(model.store[0], requires_grad=False)
    x = block(x)
    block.mix.weight = kept
    return x


def written(model: nn.Module, block: nn.Module, x: Tensor) -> Tensor:
    block.mix.weight.mul_(0.5)
    return block(x)


def moved(model: nn.Module, block: nn.Module, x: Tensor) -> Tensor:
    for module in block.modules():
        for parameter in module._parameters.values():
            parameter.data = parameter.data.clone()
    return block(x)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("visit", [swapped, cast_and_back, replaced, written, moved])
def test_s6_exchanged_parameters(visit: Visit, mode: Callable[[], torch.no_grad]) -> None:
    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.store = [torch.ones_like(self.blocks[0].mix.weight)]

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            for block in self.blocks:
                x = visit(self, block, x)
            return x

    model = build(Model)
    before = [(p, p.data_ptr(), p.dtype, p.clone()) for p in model.parameters()]
    x, t = sample()[0]
    with mode(), pytest.raises(CaptureError, match=r"exchanges|in place"):
        fxcache.transform(model, NEVER, example_inputs={"x": x, "timestep": t})
    for (parameter, place, dtype, value), now in zip(before, model.parameters(), strict=True):
        assert now is parameter and now.data_ptr() == place and now.dtype is dtype
        assert torch.equal(now, value)


def test_s6_a_block_that_casts_itself_works() -> None:
    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            weight = self.mix.weight.to(torch.float64)
            return x + nn.functional.linear(x.double(), weight).float()

    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Casting() for _ in range(4))

    equal_uncached(build(Model), sample())


def test_s6_blocks_that_no_module_holds() -> None:
    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.listed = list(self.blocks)
            del self.blocks

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            for block in self.listed:
                x = swapping(block, x)
            return x

    def swapping(block: nn.Module, x: Tensor) -> Tensor:
        home = block.mix.weight.data
        block.mix.weight.data = home * 2
        x = block(x)
        block.mix.weight.data = home
        return x

    model = build(Model)
    for block in model.listed:
        block.requires_grad_(False)
    before = [block.mix.weight.clone() for block in model.listed]
    with pytest.raises(CaptureError, match=r"exchanges the data of 'mix\.weight'"):
        fxcache.transform(model, NEVER)(*sample()[0])
    assert all(map(torch.equal, before, [block.mix.weight for block in model.listed]))
