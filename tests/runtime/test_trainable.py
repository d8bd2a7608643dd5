"""Anything to be trained is seen in the next call, whenever and however it came into the model."""

from __future__ import annotations

import collections
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

import fxcache
from fxcache.errors import GradientWarning
from fxcache.runtime.trainable import Trainable
from tests.toy import ToyBlock, ToyDiT, latents, timesteps, toy

SETTING = "F1B1_W0M0MC0_T0O1_R1000"


def flip(model: Any) -> None:
    model.requires_grad_(True)


def flip_one(model: Any) -> None:
    model.blocks[3].mix.bias.requires_grad_(True)


def replace_a_parameter(model: Any) -> None:
    model.blocks[2].mix.weight = nn.Parameter(model.blocks[2].mix.weight.detach().clone())


def put_a_parameter_into_the_table(model: Any) -> None:
    model.blocks[2].mix._parameters["weight"] = nn.Parameter(model.blocks[2].mix.weight.detach().clone())


def replace_the_table(model: Any) -> None:
    table = model.blocks[2].mix._parameters
    model.blocks[2].mix._parameters = {k: nn.Parameter(v.detach().clone()) for k, v in table.items()}


def fill_an_empty_parameter(model: Any) -> None:
    model.blocks[1].mix.bias = nn.Parameter(torch.zeros(8))


def add_a_buffer(model: Any) -> None:
    model.blocks[1].mix.register_buffer("scale", torch.ones(8, requires_grad=True))


def add_a_module(model: Any) -> None:
    model.blocks[1].further = nn.Linear(2, 2)


def replace_a_module(model: Any) -> None:
    model.blocks[1].mix = nn.Linear(8, 8)


def replace_a_block(model: Any) -> None:
    model.blocks[1] = ToyBlock(8)


def append_a_block(model: Any) -> None:
    model.blocks.append(ToyBlock(8))


def add_lora(model: Any) -> None:
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["mix"]), model)


CHANGES = [
    flip, flip_one, replace_a_parameter, put_a_parameter_into_the_table, replace_the_table,
    fill_an_empty_parameter, add_a_buffer, add_a_module, replace_a_module, replace_a_block, append_a_block,
    add_lora,
]  # fmt: skip


def frozen() -> ToyDiT:
    model = toy()
    model.blocks[1].mix.bias = None
    return model


@pytest.mark.parametrize("change", CHANGES)
def test_it_is_seen_after_the_first_question(change: Callable[[Any], None]) -> None:
    model = frozen()
    trainable = Trainable((model,))
    assert not trainable
    change(model)
    assert trainable
    model.requires_grad_(False)
    for buffer in model.buffers():
        buffer.requires_grad_(False)
    assert not trainable


@pytest.mark.parametrize("change", CHANGES)
def test_the_next_call_runs_the_original_with_gradients(change: Callable[[Any], None]) -> None:
    model = frozen()
    cached = fxcache.transform(model, SETTING)
    (x, *_), (t, *_) = latents(1, 0), timesteps(1)
    assert not cached(x, t).requires_grad
    change(model)
    with pytest.warns(GradientWarning):
        out = cached(x, t)
    assert torch.equal(out, model(x, t))
    assert out.requires_grad is model(x, t).requires_grad


def test_a_module_that_the_model_does_not_hold() -> None:
    class Deque(ToyDiT):
        """Its blocks are no children of it."""

        def __init__(self) -> None:
            super().__init__()
            self.row = collections.deque(self.blocks)
            del self.blocks

        def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
            hidden_states = self.embed(hidden_states)
            for block in self.row:
                hidden_states = block(hidden_states, timestep.reshape(-1, 1, 1))
            return self.head(hidden_states)

    model = Deque().eval().requires_grad_(False)
    for block in model.row:
        block.requires_grad_(False)
    cached = fxcache.transform(model, SETTING)
    (x, *_), (t, *_) = latents(1, 0), timesteps(1)
    assert not cached(x, t).requires_grad
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["mix"]), model.row[2])
    with pytest.warns(GradientWarning):
        assert cached(x, t).requires_grad


class Shifted(ToyDiT):
    """Adds a tensor that it holds in a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.zeros(8)

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        return super().forward(hidden_states + self.shift, timestep)


class ShiftedBlock(ToyBlock):
    """Likewise, in a block."""

    def __init__(self) -> None:
        super().__init__(8)
        self.shifts = [torch.zeros(8)]

    def forward(self, hidden_states: Tensor, *others: Tensor) -> Tensor:
        return super().forward(hidden_states + self.shifts[0], *others)


@pytest.mark.parametrize("where", ["glue", "block"])
def test_a_tensor_that_is_no_parameter(where: str) -> None:
    model = Shifted() if where == "glue" else ToyDiT()
    if where == "block":
        model.blocks[1] = ShiftedBlock()
    model.eval().requires_grad_(False)
    shift = model.shift if isinstance(model, Shifted) else model.blocks[1].shifts[0]
    cached = fxcache.transform(model, SETTING)
    (x, *_), (t, *_) = latents(1, 0), timesteps(1)
    assert not cached(x, t).requires_grad
    shift.requires_grad_(True)
    with pytest.warns(GradientWarning):
        cached(x, t).sum().backward()
    assert shift.grad is not None


def test_it_keeps_no_tensor_alive() -> None:
    model = frozen()
    trainable = Trainable((model,))
    assert not trainable
    weight = weakref.ref(model.head.weight)
    model.head.weight = nn.Parameter(torch.zeros(8, 8), requires_grad=False)
    gc.collect()
    assert weight() is None


def test_modules_that_are_in_it_twice_or_scripted() -> None:
    inner = nn.Linear(2, 2).requires_grad_(False)
    scripted = torch.jit.trace(nn.Linear(2, 2).requires_grad_(False), torch.ones(1, 2))
    model = nn.Sequential(inner, inner, scripted)
    trainable = Trainable((model,))
    assert not trainable
    next(scripted.parameters()).requires_grad_(True)
    assert trainable
