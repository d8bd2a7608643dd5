"""From class labels to pictures: embeddings, noise that belongs to one picture, one pipeline call.

The model has no text encoder. A class is a scaled one-hot, given both as the pooled embedding and
as two prompt tokens; an eleventh "null" class serves classifier-free guidance.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from torch import Tensor

from .latents import IMAGE_SIZE, NUM_TOKENS, TOKEN_WIDTH, to_images

CLASS_NAMES: Final = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
NULL_CLASS: Final = len(CLASS_NAMES)

StepCallback: TypeAlias = Callable[[int, float, Tensor], None]
"""Called after each step with its number, its timestep (1000 to 0) and the latents [B,49,16]."""

_PROMPT_TOKENS: Final = 2
_WIDTH: Final = 16
_SCALE: Final = 4.0


def class_embeddings(labels: Iterable[int] | Tensor) -> tuple[Tensor, Tensor]:
    """Labels, B of them in 0..10, to (prompt_embeds [B,2,16], pooled_prompt_embeds [B,16]), float32.

    Raises:
        ValueError: there is no label, or one that is no class.

    Example:
        >>> from fxcache.embedded import CLASS_NAMES, class_embeddings
        >>> prompt, pooled = class_embeddings([CLASS_NAMES.index("Sneaker")])
        >>> prompt.shape, pooled.shape
        (torch.Size([1, 2, 16]), torch.Size([1, 16]))
    """
    ids = torch.as_tensor(labels if isinstance(labels, Tensor) else list(labels), dtype=torch.long)
    if ids.numel() == 0 or ids.min() < 0 or ids.max() > NULL_CLASS:
        raise ValueError(f"labels must be one or more of 0..{NULL_CLASS}, got {ids.tolist()}")
    pooled = F.one_hot(ids, _WIDTH).float() * _SCALE
    prompt = pooled[:, None].repeat(1, _PROMPT_TOKENS, 1)
    prompt[:, 1, -1] = _SCALE  # the blocks see no text positions; this tells the tokens apart
    return prompt, pooled


def sample(
    pipe: FluxPipeline,
    labels: Iterable[int] | Tensor,
    *,
    seeds: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    num_inference_steps: int = 28,
    guidance_scale: float = 1.0,
    callback: StepCallback | None = None,
) -> Tensor:
    """Draw one picture per label: images [B,1,28,28] in [-1,1], float32, on the pipeline's device.

    The noise of a picture comes from its own seed (0, 1, 2 ... by default), or is drawn picture by
    picture from `generator`, so it depends neither on the batch nor on the device.
    `guidance_scale` above 1 is true classifier-free guidance: a second transformer call per step.

    Raises:
        ValueError: a label is no class, seeds do not match the labels, or the scale is below 1.

    Example:
        >>> from fxcache.embedded import load_pipeline, sample
        >>> sample(load_pipeline(), [1, 7], seeds=[5, 6], num_inference_steps=2).shape
        torch.Size([2, 1, 28, 28])
    """
    prompt, pooled = class_embeddings(labels)
    batch = len(pooled)
    device, dtype = pipe.transformer.device, pipe.transformer.dtype
    latents = pipe(
        prompt_embeds=prompt.to(device, dtype),
        pooled_prompt_embeds=pooled.to(device, dtype),
        **_guidance(guidance_scale, batch, device, dtype),
        height=IMAGE_SIZE,
        width=IMAGE_SIZE,
        num_inference_steps=num_inference_steps,
        latents=_noise(batch, seeds, generator).to(device, dtype),
        callback_on_step_end=None if callback is None else _adapt(callback),
        output_type="latent",
    ).images
    return to_images(latents).float().clamp(-1, 1)


def _noise(batch: int, seeds: Sequence[int] | None, generator: torch.Generator | None) -> Tensor:
    """Noise [B,49,16], each picture drawn by itself."""
    if generator is not None:
        if seeds is not None:
            raise ValueError("give seeds or a generator, not both")
        generators = [generator] * batch
    else:
        seeds = range(batch) if seeds is None else seeds
        if len(seeds) != batch:
            raise ValueError(f"{batch} labels need as many seeds, got {len(seeds)}")
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return torch.stack([torch.randn(NUM_TOKENS, TOKEN_WIDTH, generator=g) for g in generators])


def _guidance(scale: float, batch: int, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The pipeline's arguments for guidance through the null class; none at scale 1."""
    if scale < 1.0:
        raise ValueError(f"guidance_scale must be at least 1, got {scale}")
    if scale == 1.0:
        return {}
    prompt, pooled = class_embeddings([NULL_CLASS] * batch)
    return {
        "true_cfg_scale": scale,
        "negative_prompt_embeds": prompt.to(device, dtype),
        "negative_pooled_prompt_embeds": pooled.to(device, dtype),
    }


def _adapt(callback: StepCallback) -> Callable[..., dict[str, Any]]:
    """`callback` in the form that diffusers calls."""

    def on_step_end(
        pipe: FluxPipeline, step: int, timestep: Tensor, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        callback(step, float(timestep), tensors["latents"])
        return tensors

    return on_step_end
