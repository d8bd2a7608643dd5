"""Any diffusers pipeline folder as the subject of a benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from torch import nn

from .errors import MissingPathError, PipelineError, PromptError
from .prompts import Prompt
from .solvers import solving
from .subject import read_dtype

TRANSFORMER = "transformer"  # diffusers' name for it; a second one is transformer_2


class PipelineSubject:
    """A text-to-image pipeline loaded from a local folder; one picture a call, as in the document."""

    batch = 1
    texts: Sequence[str] = ()

    def __init__(
        self, path: Path, device: torch.device, dtype: str | None, arguments: Mapping[str, Any]
    ) -> None:
        kind = read_dtype(dtype, str(path)) if dtype else None
        self.name = str(path)
        self.device = device
        self._arguments = dict(arguments)
        self._pipe = load_folder(path, kind).to(device)
        self._pipe.set_progress_bar_config(disable=True)
        self.models: Mapping[str, nn.Module] = {
            name: part
            for name, part in self._pipe.components.items()
            if name.startswith(TRANSFORMER) and isinstance(part, nn.Module)
        }
        if not self.models:
            raise PipelineError(
                path, f"{type(self._pipe).__name__} has no transformer; there is nothing to cache"
            )

    def use(self, models: Mapping[str, nn.Module]) -> None:
        for name, model in models.items():
            setattr(self._pipe, name, model)

    def check(self, texts: Sequence[str]) -> None:
        if not texts:
            raise PromptError(self.name, "give a file of them with --prompts FILE")

    def draw(self, prompts: Sequence[Prompt], steps: int, solver: str | None = None) -> list[Image.Image]:
        with solving(self._pipe, solver):
            output = self._pipe(
                prompt=[p.text for p in prompts],
                num_inference_steps=steps,
                generator=[torch.Generator().manual_seed(p.seed) for p in prompts],
                output_type="pil",
                **self._arguments,
            )
        images: list[Image.Image] | None = getattr(output, "images", None)
        if images is None:
            raise PipelineError(self.name, f"{type(self._pipe).__name__} gives no pictures (output.images)")
        return images


def load_folder(path: Path, dtype: torch.dtype | None, **given: Any) -> DiffusionPipeline:
    """The pipeline in a folder, with nothing from anywhere else.

    dtype: None for what each part is stored in. given: parts that are not to be read.

    Raises `MissingPathError`, `PipelineError`.
    """
    index = path / "model_index.json"
    if not index.is_file():
        need = "no diffusers pipeline there (a folder with model_index.json), and not 'embedded'"
        raise MissingPathError("--model", path, need)
    options: dict[str, Any] = {} if dtype is None else {"torch_dtype": dtype}
    try:
        # A part that was saved as None must be given as None again.
        parts = json.loads(index.read_text())
        options |= {name: None for name, kind in parts.items() if kind == [None, None]}
        return DiffusionPipeline.from_pretrained(path, local_files_only=True, **{**options, **given})
    except (OSError, ValueError, AttributeError, ImportError) as error:
        raise PipelineError(path, f"cannot be loaded: {' '.join(str(error).split())}") from error
