"""Image to image and ControlNet: pipelines that call the denoiser with more inputs, and unnamed."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

import fxcache
from tests.behaviour.zoo.draw import Draw
from tests.behaviour.zoo.weights import randomise_degenerate_parameters, reproducible_init

from .build import FLUX, SD3, STEPS, PipelineCase

NOTHING = "F1B0_W2M0MC0_T0O1_R0"
ALL = "F1B0_W2M0MC0_T0O1_R1000"


def picture(height: int = 8, width: int = 12) -> Tensor:
    return Draw(11).uniform(1, 3, height, width)


def run(pipe: DiffusionPipeline, case: PipelineCase, **inputs: Any) -> Tensor:
    pipe.set_progress_bar_config(disable=True)
    shared = case.inputs(Draw(7)) | {"num_inference_steps": STEPS, "output_type": "latent"}
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # SD3's ControlNet encodes its image with the global generator
        return torch.as_tensor(pipe(**(shared | inputs), generator=generator, return_dict=False)[0])


def check(pipe: DiffusionPipeline, case: PipelineCase, contexts: set[str], **inputs: Any) -> None:
    plain = run(pipe, case, **inputs)
    fxcache.transform(pipe, NOTHING)
    assert torch.equal(run(pipe, case, **inputs), plain)
    fxcache.transform(pipe, ALL)
    first = run(pipe, case, **inputs)
    stats = pipe.transformer.stats()
    assert set(stats.contexts) == contexts
    assert all(len(c.cached_steps) > 0 for c in stats.contexts.values())
    assert torch.equal(run(pipe, case, **inputs), first)


def without_guidance(case: PipelineCase) -> dict[str, Any]:
    return {name: None for name in case.inputs(Draw(7)) if name.startswith("negative")}


def test_flux_image_to_image_keeps_guidance_apart() -> None:
    """This pipeline calls the transformer twice a step and names no context."""
    pipe = diffusers.FluxImg2ImgPipeline(**FLUX.load().components)
    inputs = {"image": picture(), "strength": 0.9, "num_inference_steps": 6}
    check(pipe, FLUX, {"default", "default/2"}, **inputs)


@pytest.mark.full
def test_sd3_image_to_image() -> None:
    pipe = diffusers.StableDiffusion3Img2ImgPipeline(**SD3.load().components)
    check(pipe, SD3, {"default"}, image=picture(), strength=0.9, num_inference_steps=6)


def flux_controlnet(transformer: nn.Module) -> nn.Module:
    with reproducible_init(5):
        model = diffusers.FluxControlNetModel.from_transformer(
            transformer, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2
        )
    randomise_degenerate_parameters(model, 5)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("guided", [False, pytest.param(True, marks=pytest.mark.full)])
def test_flux_with_a_controlnet(guided: bool) -> None:
    parts = FLUX.load().components
    pipe = diffusers.FluxControlNetPipeline(**parts, controlnet=flux_controlnet(parts["transformer"]))
    with_control = run(pipe, FLUX, control_image=picture())
    without_control = run(pipe, FLUX, control_image=picture(), controlnet_conditioning_scale=0.0)
    assert not torch.equal(with_control, without_control)
    guidance = {} if guided else {**without_guidance(FLUX), "true_cfg_scale": 1.0}
    contexts = {"default", "default/2"} if guided else {"default"}
    check(pipe, FLUX, contexts, control_image=picture(), num_inference_steps=8, **guidance)
    assert type(pipe.controlnet) is diffusers.FluxControlNetModel


@pytest.mark.full
def test_sd3_with_a_controlnet() -> None:
    parts = SD3.load().components
    with reproducible_init(5):
        controlnet = diffusers.SD3ControlNetModel.from_transformer(
            parts["transformer"], num_layers=2, num_extra_conditioning_channels=0
        )
    randomise_degenerate_parameters(controlnet, 5)
    controlnet.eval().requires_grad_(False)
    pipe = diffusers.StableDiffusion3ControlNetPipeline(**parts, controlnet=controlnet)
    check(pipe, SD3, {"default"}, control_image=picture(8, 16), width=16, num_inference_steps=8)
