"""The models under test, small enough for the builder, with inputs and captured programs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

import fxcache
from fxcache.ir.program import Program
from tests.behaviour.zoo import find
from tests.toy import ToyDiT
from tests.toy import toy as small

CONFIG = "F1B1_W2M0MC3_T1O1_R0.12"  # every stage holds blocks but skip
STAGES = ("front", "skip", "compute", "back")


def flux(batch: int = 2) -> tuple[nn.Module, dict[str, Any]]:
    """The embedded trained FLUX."""
    from fxcache.embedded import load_transformer

    generator = torch.Generator().manual_seed(0)
    grid = torch.arange(49)
    return load_transformer().requires_grad_(False), {
        "hidden_states": torch.randn(batch, 49, 16, generator=generator),
        "encoder_hidden_states": torch.randn(batch, 2, 16, generator=generator),
        "pooled_projections": torch.randn(batch, 16, generator=generator),
        "timestep": torch.full((batch,), 0.7),
        "img_ids": torch.stack((torch.zeros(49), grid // 7, grid % 7), dim=1),
        "txt_ids": torch.zeros(2, 3),
        "return_dict": False,
    }


def toy() -> tuple[nn.Module, dict[str, Any]]:
    x, timestep = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)), torch.full((2,), 0.7)
    return small(), {"hidden_states": x, "timestep": timestep}


BUILDERS: dict[str, Callable[[], tuple[nn.Module, dict[str, Any]]]] = {
    "toy": toy,
    "flux": flux,
    "sd3": find("SD3Transformer2DModel").build,
    "wan": find("WanTransformer3DModel").build,
    "pixart": find("PixArtTransformer2DModel").build,
}


def build(name: str, dtype: torch.dtype) -> tuple[nn.Module, dict[str, Any]]:
    model, inputs = BUILDERS[name]()
    return model.to(dtype), {k: _cast(v, dtype) for k, v in inputs.items()}


def _cast(value: Any, dtype: torch.dtype) -> Any:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(dtype) if floating else value


@cache
def program(name: str, dtype: torch.dtype, config: str = CONFIG) -> Program:
    """The transformed program of a model."""
    model, inputs = build(name, dtype)
    cached = fxcache.transform(model, config)
    specialization, _ = cached.specialization_for(inputs)
    return specialization.program


class Odd(ToyDiT):
    """A model with an operator for which there is no converter, and float64 in the middle."""

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        hidden = super().forward(hidden_states, timestep)
        return torch.special.bessel_j0(hidden) + hidden.double().sum(-1, keepdim=True).float().relu()


class Scaled(ToyDiT):
    """A model whose forward sets a number on its blocks, as diffusers does with the scale of a LoRA."""

    class Block(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.scale = inner, 1.0

        def forward(self, hidden_states: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
            return hidden_states + self.scale * (self.inner(hidden_states, temb) - hidden_states)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(self.Block(block) for block in self.blocks)

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            block.scale = 0.5
        try:
            return super().forward(hidden_states, timestep)
        finally:
            for block in self.blocks:
                block.scale = 1.0
