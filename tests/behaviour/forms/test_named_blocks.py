"""`transform(blocks=)`: blocks that a person names, where none or others are found."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache.errors import ConfigError, NamedBlocksError, NoBlocksError
from tests.behaviour.faults.base import EAGER, NEVER, WIDTH, Base, Block, build, equal_uncached, sample

HITS = (False, True, True, True)


class Wide(Block):
    """Another class of block."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1.5


class Unlike(nn.Module):
    """Four blocks of four classes, none of which is in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Module()
        self.body.first, self.body.second = Block(), Wide()
        self.body.third = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        self.body.fourth = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        x = self.body.second(self.body.first(x))
        return self.body.fourth(x + self.body.third(x))


class Refined(Base):
    """A refiner of the same class before the blocks, found as part of their chain."""

    def __init__(self) -> None:
        super().__init__()
        self.refiner = nn.ModuleList(Block() for _ in range(2))
        self.towers = {"late": [Block(), Block()]}

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        for block in self.refiner:
            x = block(x)
        x = super().forward(x.tanh(), timestep)
        for block in self.towers["late"]:
            x = block(x)
        return x


def found(model: nn.Module, **options: Any) -> tuple[str, ...]:
    x, t = sample()[0]
    explained = fxcache.explain(model, NEVER, {"x": x, "timestep": t}, **options)
    return tuple(name for segment in explained.segments for name in segment.blocks)


def test_blocks_of_four_classes() -> None:
    model = build(Unlike)
    with pytest.raises(NoBlocksError):
        found(model)
    names = ["body.first", "body.second", "body.fourth"]
    assert found(model, blocks=names) == tuple(names)
    equal_uncached(model, sample(), blocks=names)
    cached = fxcache.transform(model, EAGER, blocks=[model.body.first, "body.second", model.body.fourth])
    with torch.no_grad():
        for call in sample():
            cached(*call)
    assert cached.stats()["default"].hits == HITS
    copied = copy.deepcopy(cached)
    with torch.no_grad():
        for call in sample():
            copied(*call)
    assert copied.stats()["default"].hits == HITS


def test_only_some_of_the_lists_that_would_be_found() -> None:
    model = build(Refined)
    four = tuple(f"blocks.{i}" for i in range(4))
    assert found(model, blocks="blocks") == four
    assert found(model, blocks=model.blocks) == four
    assert found(model, blocks=["blocks", "towers"]) == (*four, "towers.late.0", "towers.late.1")
    assert found(model, blocks=["blocks.1", "blocks.2"]) == four[1:3]
    equal_uncached(model, sample(), blocks=["blocks", "towers.late"])


def test_lists_are_segments_by_the_names_they_are_given() -> None:
    x, t = sample()[0]
    inputs = {"x": x, "timestep": t}
    explained = fxcache.explain(
        build(Refined), NEVER, inputs, scope="list", blocks=["refiner", "blocks", "towers.late"]
    )
    assert [len(segment.blocks) for segment in explained.segments] == [2, 4, 2]
    assert [name for name, _, _ in explained.lists] == ["refiner", "blocks", "towers.late"]


def test_what_is_no_chain() -> None:
    class Beside(Refined):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return self.refiner[0](x) + Base.forward(self, x, timestep)

    model = build(Beside)
    for blocks, why in (
        (["refiner", "blocks"], r"'refiner\.1' is not called"),
        (["refiner.0", "blocks"], r"blocks\.0 > blocks\.1 > .*; 'refiner\.0' is not in it"),
        (["blocks.0"], r"follow each other: blocks\.0; that is one call"),
        (["blocks", "blocks.0.mix"], r"'blocks\.0\.mix' lies within 'blocks\.0'"),
    ):
        with pytest.raises(NamedBlocksError, match=why):
            found(model, blocks=blocks)


def test_what_is_no_block() -> None:
    model = build(Refined)
    for blocks, why in (
        ("block", "did you mean 'blocks'"),
        ("zzz", "there is no such module in Refined"),
        ([Block()], "it is no part of Refined"),
        ([], "at least one"),
    ):
        with pytest.raises(ConfigError, match=why):
            fxcache.transform(model, NEVER, blocks=blocks)


def test_blocks_that_are_replaced_or_gone() -> None:
    model = build(Refined)
    cached = fxcache.transform(model, NEVER, blocks="blocks")
    x, t = sample()[0]
    with torch.no_grad():
        cached(x, t)
        model.blocks[1] = build(Wide)
        assert torch.equal(cached(x, t), model(x, t))
        model.blocks = nn.ModuleList([])
        with pytest.raises(NamedBlocksError):
            cached(x, t)
