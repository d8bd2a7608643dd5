"""The training objective: predict the noise, weighted by timestep, with dropped labels."""

from dataclasses import dataclass

import torch
from diffusers.schedulers import DDPMScheduler
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .conditioning import NULL_CLASS, class_embeddings, prompt_mask
from .model import NOISE_SCHEDULE

_NULL_SHARE = 0.1
_LEVEL_SPREAD = 0.1
_MIN_SNR = 1e-3
_MAX_SNR = 5.0


@dataclass(frozen=True)
class Example:
    """A batch to learn from: noisy [B,3,32,32], timesteps [B], labels [B], noise, weights [B]."""

    noisy: Tensor
    timesteps: Tensor
    labels: Tensor
    noise: Tensor
    weights: Tensor


def draw_example(latents: Tensor, labels: Tensor, generator: torch.Generator) -> Example:
    """Add noise of random timesteps to latents [B,3,32,32]; hide a tenth of the labels [B].

    The timesteps are one from each of B equal parts of the schedule. A tenth of the pictures get
    the null class, which is what guidance subtracts. Each picture's noise is a little louder or
    softer than its timestep says, so that the model learns to remove what noise is there: a sampler
    leaves some behind at every step, and it would otherwise add up to grain.
    """
    batch = len(latents)
    scheduler = DDPMScheduler(**NOISE_SCHEDULE)
    hidden = torch.rand(batch, generator=generator) < _NULL_SHARE
    parts = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
    timesteps = (parts * scheduler.config.num_train_timesteps).long()
    levels = 1 + _LEVEL_SPREAD * torch.randn(batch, 1, 1, 1, generator=generator)
    noise = levels * torch.randn(latents.shape, generator=generator)
    kept = scheduler.alphas_cumprod[timesteps]
    return Example(
        noisy=scheduler.add_noise(latents, noise, timesteps),
        timesteps=timesteps,
        labels=labels.masked_fill(hidden, NULL_CLASS),
        noise=noise,
        weights=_weights(kept / (1 - kept)),
    )


def noise_loss(model: nn.Module, example: Example) -> Tensor:
    """Weighted mean squared error of the predicted noise, in float32; the forward in bfloat16."""
    # The fused attention kernel for bfloat16 is slow on CPUs without matrix units.
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        predicted = model(
            example.noisy,
            encoder_hidden_states=class_embeddings(example.labels),
            encoder_attention_mask=prompt_mask(len(example.labels)),
            timestep=example.timesteps,
            return_dict=False,
        )[0]
    errors = (predicted.float() - example.noise).square().mean((1, 2, 3))
    return (errors * example.weights).mean()


def _weights(snr: Tensor) -> Tensor:
    """Weights of the squared error by the signal-to-noise ratio, both [B].

    Fine noise counts less, as in min-SNR. Coarse noise counts more: there the model need only
    repeat its input to be nearly right, but the shape and the colors are decided.
    """
    fine = (_MAX_SNR / snr).clamp(max=1)
    coarse = (1 + 1 / snr.clamp(min=_MIN_SNR)).sqrt()
    return fine * coarse
