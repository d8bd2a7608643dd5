"""The latent layout: 28x28 pictures as FLUX's 7x7 packed tokens of 16 numbers.

The "VAE" is a pixel-unshuffle by 2 ([B,4,14,14]); FLUX then packs 2x2 patches of that into tokens.
Both are permutations, so nothing is lost on the way there and back.
"""

from typing import Final

import torch.nn.functional as F
from torch import Tensor

IMAGE_SIZE: Final = 28
NUM_TOKENS: Final = 49
TOKEN_WIDTH: Final = 16
VAE_SCALE: Final = 2

_PATCH: Final = 2
_CHANNELS: Final = VAE_SCALE**2
_ROWS: Final = IMAGE_SIZE // (VAE_SCALE * _PATCH)


def to_latents(images: Tensor) -> Tensor:
    """Images [B,1,28,28] to packed latents [B,49,16].

    Example:
        >>> import torch
        >>> from fxcache.embedded import to_latents
        >>> to_latents(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 49, 16])
    """
    planes = F.pixel_unshuffle(images, VAE_SCALE)
    patches = planes.view(-1, _CHANNELS, _ROWS, _PATCH, _ROWS, _PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(-1, NUM_TOKENS, TOKEN_WIDTH)


def to_images(latents: Tensor) -> Tensor:
    """Packed latents [B,49,16] to images [B,1,28,28], values unchanged.

    Example:
        >>> import torch
        >>> from fxcache.embedded import to_images, to_latents
        >>> images = torch.rand(2, 1, 28, 28)
        >>> torch.equal(to_images(to_latents(images)), images)
        True
    """
    patches = latents.view(-1, _ROWS, _ROWS, _CHANNELS, _PATCH, _PATCH)
    side = _ROWS * _PATCH
    planes = patches.permute(0, 3, 1, 4, 2, 5).reshape(-1, _CHANNELS, side, side)
    return F.pixel_shuffle(planes, VAE_SCALE)
