"""The emoji model as the subject of a benchmark: `fxcache bench run --model bench.emoji_pixart:subject`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import nn

from fxcache.benchmark.prompts import Prompt
from fxcache.benchmark.solvers import solving
from fxcache.benchmark.subject import Subject, read_dtype, require_classes, require_options

from .conditioning import CLASS_NAMES
from .model import load
from .pipeline import draw, load_pipeline

NAME = "emoji_pixart"
OPTIONS = ("guidance",)


class EmojiSubject:
    """Ten pictures, one of each group of emoji, a call."""

    name = NAME
    batch = len(CLASS_NAMES)
    texts: Sequence[str] = CLASS_NAMES

    def __init__(self, device: torch.device, dtype: str | None, arguments: Mapping[str, Any]) -> None:
        require_options(NAME, arguments, OPTIONS)
        model = load().to(device=device, dtype=read_dtype(dtype or "float32", NAME))
        self._pipe = load_pipeline(model)
        self._arguments = dict(arguments)
        self.device = device
        self.models: Mapping[str, nn.Module] = {"transformer": model}

    def use(self, models: Mapping[str, nn.Module]) -> None:
        self._pipe.transformer = models["transformer"]

    def check(self, texts: Sequence[str]) -> None:
        require_classes(NAME, texts, CLASS_NAMES)

    def draw(self, prompts: Sequence[Prompt], steps: int, solver: str | None = None) -> list[Image.Image]:
        classes = [CLASS_NAMES.index(p.text) for p in prompts]
        with solving(self._pipe, solver):
            images = draw(self._pipe, [p.seed for p in prompts], classes, steps=steps, **self._arguments)
        pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return [Image.fromarray(image.cpu().numpy()) for image in pixels]


def subject(device: torch.device, dtype: str | None, arguments: Mapping[str, Any]) -> Subject:
    """The emoji model in diffusers' own pipeline."""
    return EmojiSubject(device, dtype, arguments)
