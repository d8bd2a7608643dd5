"""LPIPS, by the package of its authors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import BenchmarkError, MissingExtraError
from .pictures import LEVELS


def load(network: str) -> Any:
    """LPIPS with `alex`, `vgg` or `squeeze`. Raises `MissingExtraError`, `BenchmarkError`."""
    try:
        import lpips
    except ImportError as error:
        raise MissingExtraError("--lpips", "lpips (which needs torchvision)", "lpips") from error
    try:
        return lpips.LPIPS(net=network, verbose=False).eval()
    except OSError as error:
        hint = "its weights cannot be downloaded; put them into torch's hub cache"
        raise BenchmarkError(f"--lpips {network}: {hint} ({' '.join(str(error).split())})") from error


@torch.no_grad()
def distance(network: Any, images: Tensor, references: Tensor) -> Tensor:
    """Perceptual distance of each pair of levels [B,C,H,W]: [B]. Raises `BenchmarkError`."""

    def scaled(levels: Tensor) -> Tensor:
        return (levels / (LEVELS / 2) - 1).expand(-1, 3, -1, -1)

    try:
        found: Tensor = network(scaled(images), scaled(references))
    except RuntimeError as error:
        if "output size" not in str(error).lower():
            raise
        size = "x".join(str(n) for n in images.shape[-2:])
        raise BenchmarkError(f"--lpips: {size} pixels are too few for this network; use vgg") from error
    return found.flatten()
