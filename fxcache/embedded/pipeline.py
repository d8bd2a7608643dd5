"""diffusers' own FluxPipeline around the embedded transformer."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers.schedulers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from .latents import VAE_SCALE
from .model import load_transformer


class PixelShuffleVAE(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Stands where FLUX has an autoencoder: moves pixels between space and channels, loses nothing.

    The config has the fields that FluxPipeline reads: two entries in `block_out_channels` say that
    it scales by 2.

    Example:
        >>> import torch
        >>> from fxcache.embedded import PixelShuffleVAE
        >>> vae, images = PixelShuffleVAE(), torch.rand(2, 1, 28, 28)
        >>> latents = vae.encode(images)
        >>> latents.shape, torch.equal(vae.decode(latents)[0], images)
        (torch.Size([2, 4, 14, 14]), True)
    """

    @register_to_config
    def __init__(
        self,
        block_out_channels: tuple[int, ...] = (1, 1),
        latent_channels: int = 4,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
    ) -> None:
        super().__init__()
        # The pipeline asks every component for its device and dtype, which come from a parameter.
        self.anchor = nn.Parameter(torch.zeros(1), requires_grad=False)

    def encode(self, images: Tensor) -> Tensor:
        """Images [B,1,2H,2W] to latents [B,4,H,W]."""
        return F.pixel_unshuffle(images, VAE_SCALE)

    def decode(self, latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Latents [B,4,H,W] to images [B,1,2H,2W], in a tuple as FluxPipeline expects."""
        return (F.pixel_shuffle(latents, VAE_SCALE),)


def load_pipeline(transformer: nn.Module | None = None, dtype: torch.dtype = torch.float32) -> FluxPipeline:
    """A FluxPipeline without text encoders: it is called with `prompt_embeds` (see `sample`).

    `transformer` may be anything that stands in for the embedded one, such as a cached version of
    it; it is used as it is. Without it the embedded transformer is loaded in `dtype`.

    Example:
        >>> from fxcache.embedded import load_pipeline, sample
        >>> pipe = load_pipeline()
        >>> type(pipe).__name__, sample(pipe, [3], num_inference_steps=2).shape
        ('FluxPipeline', torch.Size([1, 1, 28, 28]))
    """
    # FluxPipeline's annotations ask for text encoders and an AutoencoderKL; its code does not.
    build: Callable[..., FluxPipeline] = FluxPipeline
    pipe = build(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=1.0),
        vae=PixelShuffleVAE(),  # computes nothing, so it serves any dtype
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=load_transformer(dtype) if transformer is None else transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
