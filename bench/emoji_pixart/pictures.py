"""Image tensors as a sheet."""

from typing import Final

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

_MARGIN: Final = 1


def sheet(images: Tensor, columns: int, scale: int = 1) -> Image.Image:
    """Images [N,3,H,W] in [0,1] in rows of `columns`, N a multiple of it, on white."""
    framed = F.pad(images, [_MARGIN] * 4, value=1.0).unflatten(0, (-1, columns))
    joined = framed.permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # [rows*H,columns*W,3]
    picture = Image.fromarray((joined * 255).round().to(torch.uint8).numpy())
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
