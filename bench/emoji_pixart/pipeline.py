"""diffusers' own PixArtAlphaPipeline around the emoji model."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from diffusers.schedulers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor, nn

from .conditioning import CLASS_NAMES, NULL_CLASS, class_embeddings, prompt_mask
from .latents import CHANNELS, IMAGE_SIZE, to_images
from .model import NOISE_SCHEDULE

SchedulerName: TypeAlias = Literal["dpm++", "ddim", "euler", "unipc"]


class PixelVAE(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Stands where PixArt has an autoencoder: shifts and scales the pixels, and changes no shape."""

    @register_to_config
    def __init__(self, block_out_channels: tuple[int, ...] = (1,), scaling_factor: float = 1.0) -> None:
        super().__init__()
        # The pipeline asks every component for its device and dtype, which come from a parameter.
        self.anchor = nn.Parameter(torch.zeros(1), requires_grad=False)

    def decode(self, latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Latents [B,3,32,32] to images in [-1,1], in a tuple as the pipeline expects."""
        return (to_images(latents) * 2 - 1,)


def sample(
    model: nn.Module,
    seeds: Sequence[int],
    classes: Sequence[int] | None = None,
    *,
    steps: int = 28,
    scheduler: SchedulerName = "dpm++",
    guidance: float = 1.0,
) -> Tensor:
    """Draw one picture per seed: images [N,3,32,32] in [0,1], float32, on the model's device.

    `model` is the transformer or anything that stands in for it, such as a cached version.
    `classes` are 0..9 of `CLASS_NAMES`, or 10 for no class; by default each seed modulo 10. The
    noise depends on its seed alone. `guidance` above 1 is classifier-free guidance as PixArt does
    it: one call per step, whose batch is the pictures without a class and then with it.

    Raises:
        ValueError: a class is none, classes do not match the seeds, guidance is below 1, or there
            is no such scheduler.

    Example:
        >>> from bench.emoji_pixart import load, sample
        >>> sample(load(), seeds=[7, 8], classes=[0, 9], steps=2).shape
        torch.Size([2, 3, 32, 32])
    """
    classes = [seed % len(CLASS_NAMES) for seed in seeds] if classes is None else classes
    if len(classes) != len(seeds):
        raise ValueError(f"{len(seeds)} seeds need as many classes, got {len(classes)}")
    return draw(load_pipeline(model, scheduler), seeds, classes, steps=steps, guidance=guidance)


def draw(
    pipe: PixArtAlphaPipeline,
    seeds: Sequence[int],
    classes: Sequence[int],
    *,
    steps: int = 28,
    guidance: float = 1.0,
) -> Tensor:
    """As `sample`, with a pipeline in hand."""
    images: Tensor = pipe(
        prompt=None,
        prompt_embeds=class_embeddings(classes).to(pipe.transformer.dtype),
        prompt_attention_mask=prompt_mask(len(seeds)),
        **_guidance(guidance, len(seeds), pipe.transformer.dtype),
        height=IMAGE_SIZE,
        width=IMAGE_SIZE,
        num_inference_steps=steps,
        latents=_noise(seeds).to(pipe.transformer.dtype),
        use_resolution_binning=False,
        output_type="pt",
    ).images
    return images.float()


def load_pipeline(model: nn.Module, scheduler: SchedulerName = "dpm++") -> PixArtAlphaPipeline:
    """A PixArtAlphaPipeline without a text encoder: it is called with `prompt_embeds` (see `sample`)."""
    # The pipeline's annotations ask for a T5 and an AutoencoderKL; its code does not.
    build: Callable[..., PixArtAlphaPipeline] = PixArtAlphaPipeline
    pipe = build(
        tokenizer=None,
        text_encoder=None,
        vae=PixelVAE(),
        transformer=model,
        scheduler=new_scheduler(scheduler),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def new_scheduler(name: SchedulerName) -> Any:
    """A deterministic scheduler of diffusers; "dpm++" is 2M, PixArt's own.

    Raises:
        ValueError: there is none of this name.
    """
    match name:
        case "dpm++":
            return DPMSolverMultistepScheduler(**NOISE_SCHEDULE)
        case "ddim":
            return DDIMScheduler(**NOISE_SCHEDULE, clip_sample=False)
        case "euler":
            return EulerDiscreteScheduler(**NOISE_SCHEDULE)
        case "unipc":
            return UniPCMultistepScheduler(**NOISE_SCHEDULE)
    raise ValueError(f"the scheduler must be dpm++, ddim, euler or unipc, got {name!r}")


def _noise(seeds: Sequence[int]) -> Tensor:
    """Noise [N,3,32,32], each picture drawn by itself."""
    shape = (CHANNELS, IMAGE_SIZE, IMAGE_SIZE)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def _guidance(scale: float, batch: int, dtype: torch.dtype) -> dict[str, Any]:
    """The pipeline's arguments for guidance through the null class; at scale 1 it is off."""
    if scale < 1.0:
        raise ValueError(f"guidance must be at least 1, got {scale}")
    if scale == 1.0:
        return {"guidance_scale": 1.0}
    return {
        "guidance_scale": scale,
        "negative_prompt": None,  # the default, an empty string, may not be given beside embeddings
        "negative_prompt_embeds": class_embeddings([NULL_CLASS] * batch).to(dtype),
        "negative_prompt_attention_mask": prompt_mask(batch),
    }
