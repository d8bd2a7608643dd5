"""Hooks on blocks that come and go: also where what the block writes or returns is another thing then."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxcache
from tests.behaviour.faults.base import EAGER, NEVER, Base, Block, build, equal_uncached, sample
from tests.sweep import sweep

Hook = Callable[[nn.Module], Any]


class Writing(Block):
    def forward(self, x: Tensor) -> Tensor:
        x += self.mix(x)
        return x


class WritingModel(Base):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Writing() for _ in range(4))


def returns_another(block: nn.Module) -> Any:
    return block.register_forward_hook(lambda module, args, result: result + 0.25)


def writes_the_result(block: nn.Module) -> Any:
    return block.register_forward_hook(lambda module, args, result: result.add_(0.25))


def writes_the_input(block: nn.Module) -> Any:
    return block.register_forward_pre_hook(lambda module, args: (args[0].add_(0.25),))


def writes_the_input_further_down(block: nn.Module) -> Any:
    return block.mix.register_forward_pre_hook(lambda module, args: (args[0].mul_(1.1),))


@pytest.mark.parametrize(
    "hook", [returns_another, writes_the_result, writes_the_input, writes_the_input_further_down]
)
@pytest.mark.parametrize("kind", [Base, WritingModel])
@pytest.mark.parametrize("place", sweep((0, 1, 3), (1,)))
def test_hooks_that_come_and_go(kind: type[nn.Module], hook: Hook, place: int) -> None:
    model = build(kind)
    calls = sample()

    def plain() -> list[Tensor]:
        with torch.no_grad():
            return [model(x.clone(), t) for x, t in calls]

    cached = fxcache.transform(model, NEVER)
    for _ in range(2):
        for add in (False, True):
            handle = hook(model.blocks[place]) if add else None
            with torch.no_grad():
                found = [cached(x.clone(), t) for x, t in calls]
            assert all(map(torch.equal, found, plain()))
            if handle is not None:
                handle.remove()


def test_a_hook_from_the_start_differs_from_its_like_blocks() -> None:
    """The one block with a hook is not described by the others, which are built alike."""
    model = build(WritingModel)
    returns_another(model.blocks[2])
    calls = [(x.clone(), t) for x, t in sample()]
    cached = fxcache.transform(model, NEVER)
    with torch.no_grad():
        for x, t in calls:
            assert torch.equal(cached(x.clone(), t), model(x.clone(), t))


def test_the_same_hook_again_is_no_new_capture(caplog: pytest.LogCaptureFixture) -> None:
    model = build(Base)
    cached = fxcache.transform(model, EAGER)
    seen: list[int] = []

    def look(module: nn.Module, args: Any, result: Any) -> None:
        seen.append(1)

    with caplog.at_level(logging.INFO, logger="fxcache"), torch.no_grad():
        for x, t in sample(8):
            handle = model.blocks[0].register_forward_hook(look)
            cached(x, t)
            handle.remove()
    assert sum("capturing" in r.message for r in caplog.records) == 1
    assert sum(seen) >= 8


def test_a_forward_set_on_a_block() -> None:
    model = build(Base)
    equal_uncached(model, sample())
    cached = fxcache.transform(model, NEVER)
    calls = sample()
    with torch.no_grad():
        cached(*calls[0])
        block = model.blocks[1]

        def forward(x: Tensor) -> Tensor:
            x.mul_(0.5)
            return x

        block.forward = forward
        for x, t in calls:
            assert torch.equal(cached(x.clone(), t), model(x.clone(), t))
