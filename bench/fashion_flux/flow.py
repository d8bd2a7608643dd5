"""The training objective: rectified flow with logit-normal times and dropped labels."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fxcache.embedded import NULL_CLASS, class_embeddings

_NULL_SHARE = 0.1
_ROWS = 7
_TEXT_TOKENS = 2


@dataclass(frozen=True)
class Example:
    """A batch to learn from: noisy [B,49,16] at times [B], labels [B], velocity [B,49,16]."""

    noisy: Tensor
    times: Tensor
    labels: Tensor
    velocity: Tensor


def draw_example(latents: Tensor, labels: Tensor, generator: torch.Generator) -> Example:
    """Mix latents [B,49,16] with noise at random times; hide a tenth of the labels [B].

    A tenth of the pictures get the null class, which is what guidance subtracts.
    """
    batch = len(latents)
    hidden = torch.rand(batch, generator=generator) < _NULL_SHARE
    times = _logit_normal(batch, generator)
    noise = torch.randn(latents.shape, generator=generator)
    share = times[:, None, None]
    return Example(
        noisy=(1 - share) * latents + share * noise,
        times=times,
        labels=labels.masked_fill(hidden, NULL_CLASS),
        velocity=noise - latents,
    )


def flow_loss(model: nn.Module, example: Example) -> Tensor:
    """Mean squared error of the predicted velocity, in float32; the forward in bfloat16."""
    prompt, pooled = class_embeddings(example.labels)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = model(
            hidden_states=example.noisy,
            timestep=example.times,
            encoder_hidden_states=prompt,
            pooled_projections=pooled,
            img_ids=_image_positions(),
            txt_ids=torch.zeros(_TEXT_TOKENS, 3),
            return_dict=False,
        )[0]
    return (predicted.float() - example.velocity).square().mean()


def _logit_normal(count: int, generator: torch.Generator) -> Tensor:
    """Times [count] in (0,1): sigmoid of a normal, one from each of `count` equal quantiles."""
    quantiles = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    normal = math.sqrt(2) * torch.erfinv((2 * quantiles - 1).clamp(-0.9999, 0.9999))
    return torch.sigmoid(normal)


def _image_positions() -> Tensor:
    """Row and column of each token, [49,3], as FluxPipeline gives them."""
    token = torch.arange(_ROWS * _ROWS)
    return torch.stack([torch.zeros_like(token), token // _ROWS, token % _ROWS], dim=1).float()
