"""PSNR and SSIM of a picture to the uncached one, by torchmetrics."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .pictures import LEVELS

# Pictures are compared as 8-bit files, which are off by 1/12 level² by themselves: nothing that
# agrees in every pixel is known to agree better than this.
IDENTICAL = 10 * math.log10(LEVELS**2 * 12)
WORST = 0.05


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Decibels of each picture, [B], from levels [B,C,H,W]; at most `IDENTICAL` (58.9)."""
    from torchmetrics.functional.image import peak_signal_noise_ratio

    each = [
        peak_signal_noise_ratio(image[None], reference[None], data_range=LEVELS)
        for image, reference in zip(images, references, strict=True)
    ]
    return torch.stack(each).clamp(max=IDENTICAL)


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity of each picture, [B], from levels [B,C,H,W] of at least 11 pixels a side."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = structural_similarity_index_measure(images, references, data_range=LEVELS, reduction="none")
    assert isinstance(found, Tensor)
    return found.reshape(len(images))


def worst(values: Tensor) -> float:
    """Mean of the worst twentieth of the values (at least one), where more is better."""
    count = max(1, round(len(values) * WORST))
    return values.sort().values[:count].mean().item()
