"""The embedded model as the subject of a benchmark: its prompts are the ten class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import nn

from .. import embedded
from .prompts import Prompt
from .solvers import solving
from .subject import EMBEDDED, read_dtype, require_classes, require_options

OPTIONS = ("guidance_scale",)


class EmbeddedSubject:
    """`fxcache.embedded`, drawn by diffusers' FluxPipeline; ten pictures, one of each class, a call."""

    name = EMBEDDED
    batch = len(embedded.CLASS_NAMES)
    texts: Sequence[str] = embedded.CLASS_NAMES

    def __init__(self, device: torch.device, dtype: str | None, arguments: Mapping[str, Any]) -> None:
        require_options(EMBEDDED, arguments, OPTIONS)
        pipe = embedded.load_pipeline(dtype=read_dtype(dtype or "float32", EMBEDDED))
        self._pipe = pipe.to(device)
        self._arguments = dict(arguments)
        self.device = device
        self.models: Mapping[str, nn.Module] = {"transformer": self._pipe.transformer}

    def use(self, models: Mapping[str, nn.Module]) -> None:
        self._pipe.transformer = models["transformer"]

    def check(self, texts: Sequence[str]) -> None:
        require_classes(EMBEDDED, texts, embedded.CLASS_NAMES)

    def draw(self, prompts: Sequence[Prompt], steps: int, solver: str | None = None) -> list[Image.Image]:
        with solving(self._pipe, solver):
            images = embedded.sample(
                self._pipe,
                labels(prompts),
                seeds=[p.seed for p in prompts],
                num_inference_steps=steps,
                **self._arguments,
            )
        return [embedded.to_pil(image) for image in images]


def labels(prompts: Sequence[Prompt]) -> list[int]:
    """The class, 0..9, that each prompt names."""
    return [embedded.CLASS_NAMES.index(p.text) for p in prompts]
