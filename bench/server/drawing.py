"""One request to its end: by diffusers' pipeline, or in steps that alternate with those of others."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from typing import Any

import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from torch import Tensor

from fxcache import embedded

from .models import PlainModels
from .requests import Request

CHANNELS = 16  # of a token, which is 4 x 4 pixels
PIXELS = 4


class Cancelled(Exception):
    """The client went away. Raised through the pipeline, as servers do."""


def by_pipeline(models: PlainModels, pipe: Any, request: Request, name: str) -> Tensor:
    """Latents [pictures, tokens, 16].

    Raises:
        Cancelled: after as many steps as the request says.
    """

    def on_step_end(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step + 1 == request.cancel:
            raise Cancelled
        return tensors

    prompt, pooled = embedded.class_embeddings(request.labels)
    guided: dict[str, Any] = {}
    if request.guidance > 1:
        nothing, pooled_nothing = _nothing(request)
        guided = {"negative_prompt_embeds": nothing, "negative_pooled_prompt_embeds": pooled_nothing}
        guided["true_cfg_scale"] = request.guidance
    with models.context(request, name):
        drawn: Tensor = pipe(
            prompt_embeds=prompt,
            pooled_prompt_embeds=pooled,
            height=request.size,
            width=request.size,
            num_inference_steps=request.steps,
            latents=_noise(request),
            callback_on_step_end=on_step_end,
            output_type="latent",
            **guided,
        ).images
    return drawn


def by_steps(models: PlainModels, request: Request, name: str) -> Generator[None, None, Tensor]:
    """Stops after each step, so that others may have theirs; returns the latents [pictures, tokens, 16].

    Each call is in the context of its request, and its other half in one beside it. Who closes it before the
    end cancels the request.
    """
    halves = {name: embedded.class_embeddings(request.labels)}
    if request.guidance > 1:
        halves[f"{name}, uncond"] = _nothing(request)
    latents = _noise(request)
    sigmas = torch.linspace(1, 1 / request.steps, request.steps).tolist()
    try:
        for now, then in itertools.pairwise((*sigmas, 0.0)):
            found = [_velocity(models, request, half, latents, now, *halves[half]) for half in halves]
            velocity = found[0] if len(found) == 1 else torch.lerp(found[1], found[0], request.guidance)
            latents = latents + (then - now) * velocity
            yield
    finally:
        for half in halves:
            models.forget(request, half)
    return latents


def _velocity(
    models: PlainModels, request: Request, name: str, latents: Tensor, sigma: float, *prompt: Tensor
) -> Tensor:
    side = request.size // PIXELS
    with models.context(request, name), torch.no_grad():
        found: Tensor = models.of(request)(
            hidden_states=latents,
            timestep=torch.full((len(latents),), sigma),
            guidance=None,
            pooled_projections=prompt[1],
            encoder_hidden_states=prompt[0],
            txt_ids=torch.zeros(prompt[0].shape[1], 3),
            img_ids=FluxPipeline._prepare_latent_image_ids(1, side, side, "cpu", torch.float32),
            joint_attention_kwargs={},
            return_dict=False,
        )[0]
    return found


def _noise(request: Request) -> Tensor:
    tokens = (request.size // PIXELS) ** 2
    return torch.randn(
        len(request.labels), tokens, CHANNELS, generator=torch.Generator().manual_seed(request.seed)
    )


def _nothing(request: Request) -> tuple[Tensor, Tensor]:
    return embedded.class_embeddings([embedded.NULL_CLASS] * len(request.labels))
