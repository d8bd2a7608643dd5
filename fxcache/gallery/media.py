"""What a pipeline returned: pictures, clips or sounds, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ..benchmark.errors import PipelineError

Kind = Literal["picture", "clip", "sound"]
# Names of diffusers for what a pipeline's output holds.
FIELDS: tuple[tuple[str, Kind], ...] = (
    ("images", "picture"),
    ("frames", "clip"),
    ("videos", "clip"),
    ("audios", "sound"),
    ("audio", "sound"),
)
LEVELS = 255


@dataclass(frozen=True)
class Media:
    """One picture, clip or sound.

    data: uint8 [frames, height, width, 3], one frame for a picture; of a sound float32 [channels, samples].
    """

    kind: Kind
    data: np.ndarray

    @property
    def frames(self) -> list[np.ndarray]:
        """The pictures in it, each [height, width, 3]; none of a sound."""
        return [] if self.kind == "sound" else list(self.data)


def media_of(output: Any, where: str) -> list[Media]:
    """Everything in a pipeline's output of the first kind that it has.

    Args:
        where: what the pipeline is called in an error.

    Raises:
        PipelineError: it has neither pictures nor clips nor sounds.

    Example:
        >>> import types, numpy
        >>> from fxcache.gallery.media import media_of
        >>> output = types.SimpleNamespace(frames=numpy.zeros((1, 5, 8, 8, 3)))
        >>> [(one.kind, one.data.shape) for one in media_of(output, "a pipeline")]
        [('clip', (5, 8, 8, 3))]
    """
    for name, kind in FIELDS:
        value = getattr(output, name, None)
        if value is not None:
            return [Media(kind, _data(item, kind)) for item in value]
    found = ", ".join(f for f, _ in FIELDS)
    raise PipelineError(
        where, f"its output ({type(output).__name__}) has none of {found}: nothing to look at"
    )


def _data(item: Any, kind: Kind) -> np.ndarray:
    if kind == "sound":
        return np.atleast_2d(_array(item).astype(np.float32))
    if kind == "clip" and isinstance(item, Sequence):
        return np.stack([_picture(frame) for frame in item])
    if kind == "clip":
        return np.stack([_picture(frame) for frame in _array(item)])
    return _picture(item)[None]


def _picture(item: Any) -> np.ndarray:
    """uint8 [H, W, 3] of a PIL picture, or of an array with the channels first or last."""
    if hasattr(item, "convert"):
        return np.asarray(item.convert("RGB"))
    found = _array(item)
    if found.ndim == 3 and found.shape[-1] not in (1, 3, 4):
        found = np.moveaxis(found, 0, -1)
    found = found[..., None] if found.ndim == 2 else found[..., :3]
    if found.dtype != np.uint8:
        found = (found.clip(0, 1) * LEVELS).round().astype(np.uint8)
    return np.broadcast_to(found, (*found.shape[:2], 3))


def _array(item: Any) -> np.ndarray:
    return item.detach().float().cpu().numpy() if isinstance(item, torch.Tensor) else np.asarray(item)
