"""What is benchmarked: something that draws pictures with diffusion transformers inside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import torch
from PIL import Image
from torch import nn

from .errors import PipelineError, PromptError
from .prompts import Prompt

EMBEDDED = "embedded"


class Subject(Protocol):
    """A pipeline whose transformers can be exchanged.

    name: as given on the command line. models: the original transformers by component name.
    batch: pictures per call unless the user says otherwise. texts: prompts used without a file.
    """

    name: str
    models: Mapping[str, nn.Module]
    device: torch.device
    batch: int
    texts: Sequence[str]

    def use(self, models: Mapping[str, nn.Module]) -> None:
        """Draw with these in the places of `models`."""
        ...

    def check(self, texts: Sequence[str]) -> None:
        """Raise `PromptError` where a prompt cannot be drawn."""
        ...

    def draw(self, prompts: Sequence[Prompt], steps: int, solver: str | None = None) -> list[Image.Image]:
        """One picture per prompt, in one call. Its noise depends on the prompt's seed alone.

        solver: one of `solvers.SOLVERS`; None for the pipeline's own.
        """
        ...


def require_options(where: str, arguments: Iterable[str], options: Sequence[str]) -> None:
    """Raise `PipelineError` where an argument is none of a subject's options."""
    unknown = set(arguments) - set(options)
    if unknown:
        raise PipelineError(where, f"--arg {min(unknown)}: it takes only {', '.join(options)}")


def require_classes(where: str, texts: Iterable[str], classes: Sequence[str]) -> None:
    """Raise `PromptError` where a prompt is none of the classes that a subject draws."""
    for text in texts:
        if text not in classes:
            raise PromptError(where, f"{text!r} is none of its classes; they are {', '.join(classes)}")


def read_dtype(name: str, where: str) -> torch.dtype:
    """`"bfloat16"` → `torch.bfloat16`. Raises `PipelineError`."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise PipelineError(where, f"--dtype {name} is not a torch dtype; use bfloat16, float16 or float32")
    return dtype
