"""The latent layout: 32x32 RGB pictures, shifted and scaled to about mean 0 and deviation 1."""

from typing import Final

from torch import Tensor

IMAGE_SIZE: Final = 32
CHANNELS: Final = 3

_MEAN: Final = 0.8  # emoji are drawn on white
_SCALE: Final = 3.0


def to_latents(images: Tensor) -> Tensor:
    """Images [B,3,32,32] in [0,1] to latents of the same shape, -2.4 to 0.6."""
    return (images - _MEAN) * _SCALE


def to_images(latents: Tensor) -> Tensor:
    """Latents [B,3,32,32] to images, not clamped."""
    return latents / _SCALE + _MEAN
