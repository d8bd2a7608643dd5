"""Image tensors as PIL pictures."""

from typing import Final

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

_MARGIN: Final = 1
_BACKGROUND: Final = -0.7  # dark grey, so that black pictures keep their edges


def to_pil(image: Tensor) -> Image.Image:
    """One image [1,H,W] or [H,W] in [-1,1] as a grayscale picture of the same size.

    Example:
        >>> import torch
        >>> from fxcache.embedded import to_pil
        >>> to_pil(torch.ones(1, 28, 20)).size  # (width, height)
        (20, 28)
    """
    plane = image.detach().float().cpu().reshape(image.shape[-2:])
    levels = ((plane.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(levels.numpy())


def grid(images: Tensor, columns: int = 10, scale: int = 2) -> Image.Image:
    """Images [B,1,H,W] in [-1,1] in rows of `columns`, each pixel `scale` pixels wide.

    Example:
        >>> import torch
        >>> from fxcache.embedded import grid
        >>> grid(torch.zeros(6, 1, 28, 28), columns=3, scale=1).size  # with margins of one pixel
        (90, 60)
    """
    framed = F.pad(images.detach().float().cpu(), [_MARGIN] * 4, value=_BACKGROUND)
    columns = min(columns, len(framed))
    missing = -len(framed) % columns
    blanks = torch.full((missing, *framed.shape[1:]), _BACKGROUND)
    cells = torch.cat([framed, blanks])[:, 0].unflatten(0, (-1, columns))  # [rows,columns,H,W]
    sheet = to_pil(cells.transpose(1, 2).flatten(2).flatten(0, 1))
    size = (sheet.width * scale, sheet.height * scale)
    return sheet.resize(size, Image.Resampling.NEAREST)
