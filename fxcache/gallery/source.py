"""What is sampled: the embedded model, or any pipeline in a folder."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import nn

from .. import embedded
from ..benchmark.embedded_subject import OPTIONS
from ..benchmark.errors import PipelineError, PromptError
from ..benchmark.pipeline_subject import load_folder
from ..benchmark.subject import EMBEDDED, read_dtype, require_classes, require_options
from ..errors import NoDenoiserError
from ..preparation.sizes import Sizes
from ..runtime.diffusers_pipeline import denoisers
from .media import Media, media_of
from .steps import counting

OnStep = Callable[[], object]
GUIDANCE = 2.0  # of the embedded model
STEPS = 28  # of a pipeline that does not say how many it wants
AS_IT_IS = Sizes()
SAMPLING_RATE = 44_100  # of a pipeline that does not say


@dataclass(frozen=True)
class Request:
    """What is drawn. steps: None for the pipeline's own number. arguments: further ones of its call."""

    prompts: tuple[str, ...] = ()
    seed: int = 0
    steps: int | None = None
    sizes: Sizes = AS_IT_IS
    arguments: Mapping[str, Any] = field(default_factory=dict)


class Source(Protocol):
    """A pipeline whose denoisers can be exchanged. steps: of a run. rate: samples a second, of a sound."""

    name: str
    denoisers: Mapping[str, nn.Module]
    device: torch.device
    prompts: Sequence[str]
    seed: int
    steps: int
    rate: float

    def use(self, models: Mapping[str, nn.Module]) -> None:
        """Draw with these in the places of `denoisers`."""
        ...

    def draw(self, on_step: OnStep) -> list[Media]:
        """One sample, or more, of each prompt, always of the same noise."""
        ...

    @property
    def total(self) -> int:
        """How many steps `draw` tells of."""
        ...


class EmbeddedSource:
    """The embedded model: its prompts are names of classes, drawn together."""

    name = EMBEDDED
    rate = 0.0

    def __init__(self, request: Request, device: torch.device, dtype: str | None) -> None:
        require_options(EMBEDDED, request.arguments, OPTIONS)
        request.sizes.arguments("The embedded model", {})
        self.prompts: Sequence[str] = request.prompts or embedded.CLASS_NAMES
        require_classes(EMBEDDED, self.prompts, embedded.CLASS_NAMES)
        self.device, self.seed, self.steps = device, request.seed, request.steps or STEPS
        self._guidance = float(request.arguments.get("guidance_scale", GUIDANCE))
        self._pipe = embedded.load_pipeline(dtype=read_dtype(dtype or "float32", EMBEDDED)).to(device)
        self.denoisers: Mapping[str, nn.Module] = {"transformer": self._pipe.transformer}

    @property
    def total(self) -> int:
        return self.steps

    def use(self, models: Mapping[str, nn.Module]) -> None:
        self._pipe.transformer = models["transformer"]

    def draw(self, on_step: OnStep) -> list[Media]:
        with counting(self._pipe, on_step):
            images = embedded.sample(
                self._pipe,
                [embedded.CLASS_NAMES.index(prompt) for prompt in self.prompts],
                seeds=range(self.seed, self.seed + len(self.prompts)),
                num_inference_steps=self.steps,
                guidance_scale=self._guidance,
            )
        return media_of(SimpleNamespace(images=[embedded.to_pil(image) for image in images]), self.name)


class PipelineSource:
    """A diffusers pipeline of pictures, clips or sounds: one call a prompt."""

    def __init__(self, path: Path, request: Request, device: torch.device, dtype: str | None) -> None:
        self.name, self.device = str(path), device
        self._pipe: Any = load_folder(path, read_dtype(dtype, self.name) if dtype else None).to(device)
        self.denoisers: Mapping[str, nn.Module] = denoisers(self._pipe)
        if not self.denoisers:
            raise NoDenoiserError(type(self._pipe).__name__, tuple(self._pipe.components))
        self.prompts: Sequence[str] = request.prompts
        self.seed = request.seed
        self._accepted = inspect.signature(type(self._pipe).__call__).parameters
        if "prompt" in self._accepted and not self.prompts:
            raise PromptError(self.name, "give one, or more, with --prompt TEXT")
        kind = type(self._pipe).__name__
        self._arguments = {**request.sizes.arguments(kind, self._accepted), **request.arguments}
        for name in self._arguments:
            if name not in self._accepted:
                known = ", ".join(n for n in self._accepted if n != "self")
                raise PipelineError(path, f"{kind} takes no {name}; it takes {known}")
        own = self._accepted.get("num_inference_steps")
        self.steps = request.steps or (own.default if own and isinstance(own.default, int) else STEPS)
        self.rate = _sampling_rate(self._pipe)

    @property
    def total(self) -> int:
        return self.steps * max(len(self.prompts), 1)

    def use(self, models: Mapping[str, nn.Module]) -> None:
        for name, model in models.items():
            setattr(self._pipe, name, model)

    def draw(self, on_step: OnStep) -> list[Media]:
        drawn = []
        with counting(self._pipe, on_step):
            for i, prompt in enumerate(self.prompts or ("",)):
                call = {
                    "prompt": prompt,
                    "num_inference_steps": self.steps,
                    "generator": torch.Generator().manual_seed(self.seed + i),
                }
                known = {name: value for name, value in call.items() if name in self._accepted}
                drawn += media_of(self._pipe(**known, **self._arguments), self.name)
        return drawn


def load_source(model: str, request: Request, device: torch.device, dtype: str | None) -> Source:
    """The embedded model, or the pipeline in a folder.

    Raises:
        MissingPathError, PipelineError, PromptError, NoDenoiserError: it cannot be loaded, or not drawn with.

    Example:
        >>> import torch
        >>> from fxcache.gallery.source import Request, load_source
        >>> source = load_source("embedded", Request(("Bag",), steps=2), torch.device("cpu"), None)
        >>> [one.data.shape for one in source.draw(lambda: None)]
        [(1, 28, 28, 3)]
    """
    if model == EMBEDDED:
        return EmbeddedSource(request, device, dtype)
    return PipelineSource(Path(model), request, device, dtype)


def _sampling_rate(pipe: Any) -> float:
    """Of the part that makes the sound: a vocoder, or else an autoencoder."""
    for name in ("vocoder", "audio_vae", "vae"):
        part = getattr(pipe, name, None)
        for holder in (getattr(part, "config", None), part):
            for field_name in ("output_sampling_rate", "sampling_rate"):
                rate = getattr(holder, field_name, None)
                if isinstance(rate, (int, float)):
                    return float(rate)
    return float(SAMPLING_RATE)
