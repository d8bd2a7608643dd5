"""Blocks that are elsewhere until they are needed: another home for their weights between the calls.

A caller moves them between calls, the forward itself between its blocks, or hooks on the blocks do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .form import Call, Form, drift, frequencies

WIDTH = 16


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x + (self.mix(x) * t[:, None]).tanh()


class Swapper:
    """Keeps the weights of blocks in a store, and leaves nothing in their place."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        self.blocks = blocks
        self.store: dict[int, list[Tensor]] = {}

    def unload(self, index: int) -> None:
        parameters = list(self.blocks[index].parameters())
        self.store[index] = [p.data for p in parameters]
        for parameter in parameters:
            parameter.data = torch.full_like(parameter.data, torch.nan)

    def load(self, index: int) -> None:
        for parameter, kept in zip(self.blocks[index].parameters(), self.store.pop(index), strict=True):
            parameter.data = kept.clone()  # the copy on the device

    def unload_all(self) -> None:
        """What a caller does between calls, for the memory of whatever else it runs."""
        for index in range(len(self.blocks)):
            self.unload(index)

    def load_all(self) -> None:
        for index in range(len(self.blocks)):
            self.load(index)


class Swapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.time = nn.Linear(4, WIDTH), nn.Linear(8, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(5))
        self.head = nn.Linear(WIDTH, 4)
        self.swapper: Swapper | None = None

    def enable_block_swap(self) -> None:
        """In the forward itself: each block comes before it is called and goes after."""
        self.swapper = Swapper(self.blocks)
        for index in range(len(self.blocks)):
            self.swapper.unload(index)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        x, t = self.embed(x), self.time(frequencies(timestep, 8))
        for index, block in enumerate(self.blocks):
            if self.swapper is not None:
                self.swapper.load(index)
            x = block(x, t)
            if self.swapper is not None:
                self.swapper.unload(index)
        return self.head(x)


def swap_by_hooks(model: Swapped) -> None:
    """Each block comes and goes by hooks of its own, which run only where the block does."""
    swapper = Swapper(model.blocks)
    for index, block in enumerate(model.blocks):
        swapper.unload(index)

        def before(module: nn.Module, args: Any, index: int = index) -> None:
            swapper.load(index)

        def after(module: nn.Module, args: Any, result: Any, index: int = index) -> None:
            swapper.unload(index)

        block.register_forward_pre_hook(before)
        block.register_forward_hook(after)


def call(done: float) -> Call:
    return {"x": drift(done, 2, 6, 4), "timestep": torch.full((2,), 1000 * (1.0 - done))}


FORM = Form(Swapped, call, blocks=5, free=("x[0]", "x[1]"))
