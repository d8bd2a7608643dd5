"""The first call that a pipeline makes of its denoiser, caught before anything of that runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from ..benchmark.errors import PipelineError
from ..capture.forward_inputs import ForwardInputs
from ..runtime.diffusers_pipeline import denoisers
from ..runtime.module_proxy import ModuleProxy
from .errors import NoCallError

Call = dict[str, Any]
STEPS = 2  # as few as every scheduler takes


class _Caught(Exception):
    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call


class _Catcher(ModuleProxy):
    """Stands in a denoiser's place, which may be on the meta device, and raises what it is called with."""

    @property
    def device(self) -> torch.device:
        found = torch.device(self.original.device)  # type: ignore[call-overload]
        return torch.device("cpu") if found.type == "meta" else found

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise _Caught(dict(ForwardInputs.of(self.original).bind(args, kwargs, numbers=True)))


def caught_calls(pipe: Any, arguments: Mapping[str, Any]) -> dict[str, Call]:
    """By the name of each denoiser, what `pipe(**arguments)` calls it with first: arguments by name.

    The pipeline prepares everything itself: prompts are encoded, latents drawn, and no more. Of several
    denoisers, of which one is called first, the others are taken to be called alike.

    Raises:
        NoCallError: the pipeline fails before, or calls none.

    Example:
        >>> from fxcache.embedded import class_embeddings, load_pipeline
        >>> from fxcache.preparation.caught import caught_calls
        >>> prompt, pooled = class_embeddings([3])
        >>> given = dict(prompt_embeds=prompt, pooled_prompt_embeds=pooled, height=28, width=28)
        >>> caught_calls(load_pipeline(), given)["transformer"]["hidden_states"].shape
        torch.Size([1, 49, 16])
    """
    found = denoisers(pipe)
    shown = getattr(pipe, "_progress_bar_config", None)
    pipe.set_progress_bar_config(disable=True)
    for name, module in found.items():
        setattr(pipe, name, _Catcher(module))
    try:
        pipe(**{"num_inference_steps": STEPS, **arguments})
    except _Caught as caught:
        return {name: dict(caught.call) for name in found}
    except Exception as error:
        raise NoCallError(type(pipe).__name__, f"{type(error).__name__}: {error}") from error
    finally:
        pipe._progress_bar_config = shown or {}
        for name, module in found.items():
            setattr(pipe, name, module)
    raise NoCallError(type(pipe).__name__, "it called no denoiser")


def component_of(named: Path | str, names: Collection[str], component: str | None) -> str:
    """The denoiser that is called `component`, or the only one there is.

    Raises:
        PipelineError: there are several and none is asked for, or there is none of this name.

    Example:
        >>> from fxcache.preparation.caught import component_of
        >>> component_of("wan", ["transformer", "transformer_2"], "transformer_2")
        'transformer_2'
        >>> component_of("wan", ["transformer", "transformer_2"], None)
        Traceback (most recent call last):
        fxcache.benchmark.errors.PipelineError: ... it has transformer, transformer_2; choose one with ...
    """
    listed = ", ".join(names)
    if component is None and len(names) > 1:
        raise PipelineError(named, f"it has {listed}; choose one with --component")
    if component is not None and component not in names:
        raise PipelineError(named, f"it has no denoiser {component!r}; it has {listed}")
    return component or next(iter(names))


def described(call: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Its tensors: names, and shapes with dtypes.

    Example:
        >>> import torch
        >>> from fxcache.preparation.caught import described
        >>> described({"hidden_states": torch.zeros(1, 4096, 64), "return_dict": False})
        [('hidden_states', '[1, 4096, 64] float32')]
    """
    return [
        (name, f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}")
        for name, value in call.items()
        if isinstance(value, torch.Tensor)
    ]
