"""The models: the embedded one's first blocks, and FLUX.1's own blocks with random weights."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from torch import Tensor

from bench.overhead import inputs, network
from fxcache import embedded

from .setup import Setup

SAMPLE = "hidden_states"
T = TypeVar("T")


@dataclass(frozen=True)
class Subject:
    """A model and its calls. arguments: of a call, but for the sample and the timestep. start, end: the path
    of the sample leads from one to the other, whatever the model says."""

    title: str
    model: Any
    arguments: dict[str, Any]
    start: Tensor
    end: Tensor
    dtype: torch.dtype = field(default=torch.float32)

    def call(self, step: int, of: int) -> dict[str, Any]:
        """The arguments of a step. Times are float32: bfloat16 has too few for a long run."""
        time = 1 - step / of
        sample = self.start * time + self.end * (1 - time)
        timestep = torch.full((len(sample),), time, device=sample.device)
        return {**self.arguments, SAMPLE: sample, "timestep": timestep}


def short(setup: Setup) -> Subject:
    """The first blocks of the embedded model, float32: all that modes differ in, and little to compile."""
    model: Any = embedded.load_transformer()
    double, single = (1, 2) if setup.small else (2, 3)
    model.transformer_blocks = model.transformer_blocks[:double]
    model.single_transformer_blocks = model.single_transformer_blocks[:single]
    given = embedded.example_inputs(batch=2)
    title = f"embedded FLUX, {double}+{single} of its blocks, float32"
    return _placed(title, model, given, setup.device, torch.float32)


def wide(setup: Setup) -> Subject:
    """FLUX.1's blocks, a few, at the size of a picture of 1024 x 1024; on a processor narrow ones."""
    double, single = (1, 2) if setup.small else (2, 4)
    if setup.device.type == "cpu":
        image, prompt = 64, 8
        model = made(setup.device, lambda: network(64, double, single, text=32))
    else:
        image, prompt = (1024, 128) if setup.quick else (4096, 512)
        model = made(
            setup.device, lambda: FluxTransformer2DModel(num_layers=double, num_single_layers=single)
        )
    config = model.config
    text, pooled = config.joint_attention_dim, config.pooled_projection_dim
    given = inputs(image, prompt, text, config.in_channels, pooled)
    size = f"{double}+{single} blocks, {model.inner_dim} wide, {image} + {prompt} tokens, bfloat16"
    return _placed(f"FLUX.1's shape, {size}", model, given, setup.device, torch.bfloat16)


def made(device: torch.device, make: Callable[[], T]) -> T:
    """What `make` gives with `device` and bfloat16 as defaults.

    Random weights of FLUX.1's width take a minute where they are made on a processor.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return make()
    finally:
        torch.set_default_dtype(before)


def _placed(
    title: str, model: Any, given: dict[str, Any], device: torch.device, dtype: torch.dtype
) -> Subject:
    """All of it on the device; position ids stay float32, as in the pipeline."""
    generator = torch.Generator().manual_seed(0)
    noise = functools.partial(torch.randn, given[SAMPLE].shape, generator=generator)
    arguments = {
        name: v.to(device, torch.float32 if name.endswith("_ids") else dtype) if isinstance(v, Tensor) else v
        for name, v in given.items()
        if name not in (SAMPLE, "timestep")
    }
    start, end = noise().to(device, dtype), noise().to(device, dtype)
    model = model.to(device).eval().requires_grad_(False)
    assert model.dtype == dtype
    return Subject(title, model, arguments, start, end, dtype)
