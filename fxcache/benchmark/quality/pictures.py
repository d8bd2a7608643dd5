"""Pictures as tensors."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LEVELS = 255.0


def read(path: Path) -> Tensor:
    """A picture as float levels 0 to 255, [C,H,W], C 1 or 3."""
    with Image.open(path) as image:
        pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    planes = torch.from_numpy(pixels.copy()).float()
    return planes[None] if planes.ndim == 2 else planes.permute(2, 0, 1)


def read_all(paths: Iterable[Path]) -> Tensor:
    """Pictures of one size as [B,C,H,W], levels 0 to 255."""
    return torch.stack([read(path) for path in paths])
