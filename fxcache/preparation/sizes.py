"""Sizes as a person gives them, and what pipelines call them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import FxcacheError

# Ours, and the arguments of diffusers' pipelines that say it.
NAMES: Mapping[str, tuple[str, ...]] = {
    "height": ("height",),
    "width": ("width",),
    "frames": ("num_frames", "video_length", "frames"),
    "prompt_length": ("max_sequence_length", "max_text_seq_len", "tokenizer_max_length"),
    "batch": ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt"),
}


class NoSuchSizeError(FxcacheError):
    """A pipeline cannot be told a size. Leave the option out."""

    def __init__(self, pipeline: str, option: str) -> None:
        super().__init__(f"{pipeline} takes no --{option.replace('_', '-')}: leave it out")


@dataclass(frozen=True)
class Sizes:
    """Of what is drawn, in pixels, frames and tokens. None: as the pipeline has it."""

    height: int | None = None
    width: int | None = None
    frames: int | None = None
    prompt_length: int | None = None
    batch: int | None = None

    def arguments(self, pipeline: str, accepted: Mapping[str, Any]) -> dict[str, Any]:
        """As arguments of a pipeline's call, of which `accepted` are the names.

        Raises:
            NoSuchSizeError: it has none for a size that is given.

        Example:
            >>> from fxcache.preparation.sizes import Sizes
            >>> Sizes(height=64, frames=5).arguments("A pipeline", {"height": ..., "num_frames": ...})
            {'height': 64, 'num_frames': 5}
        """
        found = {}
        for size in fields(self):
            value = getattr(self, size.name)
            if value is None:
                continue
            name = next((n for n in NAMES[size.name] if n in accepted), None)
            if name is None and not (size.name == "batch" and value == 1):
                raise NoSuchSizeError(pipeline, size.name)
            if name is not None:
                found[name] = value
        return found
