"""A denoiser of a pipeline with its weights, and the call that the pipeline makes of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..benchmark.pipeline_subject import load_folder
from .caught import Call, caught_calls, component_of
from .named import PROMPT
from .sizes import Sizes


def loaded(
    path: Path,
    component: str | None,
    sizes: Sizes,
    arguments: Mapping[str, Any],
    dtype: torch.dtype,
    device: str,
) -> tuple[nn.Module, Call]:
    """The denoiser that is called `component`, or the only one, and its first call.

    Args:
        arguments: further ones of the pipeline's call.

    Raises:
        PipelineError: no pipeline, or it has several denoisers, or none of this name. NoCallError: it fails
        before it calls one. NoSuchSizeError: it cannot be told a size.
    """
    pipe: Any = load_folder(path, dtype).to(device)
    accepted = inspect.signature(type(pipe).__call__).parameters
    prompt = {"prompt": PROMPT} if "prompt" in accepted else {}
    calls = caught_calls(pipe, {**prompt, **sizes.arguments(type(pipe).__name__, accepted), **arguments})
    name = component_of(path, calls, component)
    model: nn.Module = pipe.components[name]
    return model.eval().requires_grad_(False), calls[name]
