"""What is calibrated: denoisers, and a function that does run i with stand-ins in their places."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..errors import CalibrationError, NoDenoiserError
from ..runtime.cached_transformer import CachedTransformer
from ..runtime.diffusers_pipeline import denoisers, is_pipeline
from ..runtime.subjects import require_model
from .noise import generators

Players = Mapping[str, nn.Module]


@dataclass(frozen=True)
class Sampler:
    """denoisers: by name, without a cache. options: by the same names, how those that were transformed are
        entered and captured (`CachedTransformer.captured_as`). runs: how many there are.
    draw: does one, given its number and what stands in the denoisers' places; returns what quality is
        measured on.
    generators: that runs take noise from. scheduler: its class's name. key: what runs are known again by.

    Example:
        >>> from fxcache.embedded import load_transformer, sample, load_pipeline
        >>> from fxcache.calibration.sampler import sampler
        >>> def run(model, i):
        ...     return sample(load_pipeline(model), [i], num_inference_steps=2)
        >>> found = sampler(load_transformer(), None, run, runs=10)
        >>> list(found.denoisers), found.draw(3, found.denoisers).shape
        (['model'], torch.Size([1, 1, 28, 28]))
    """

    denoisers: Mapping[str, nn.Module]
    options: Mapping[str, Mapping[str, Any]]
    runs: int
    draw: Callable[[int, Players], Any]
    generators: list[torch.Generator]
    scheduler: str | None = None
    key: Any = None


def sampler(
    target: Any,
    calls: Sequence[Mapping[str, Any]] | None,
    run: Callable[[nn.Module, int], Any] | None,
    runs: int | None,
) -> Sampler:
    """Of a pipeline and its calls, or of a model and a function that samples with it.

    Raises:
        CalibrationError: neither was given whole. NoDenoiserError: the pipeline has none.

    Example:
        >>> from fxcache.embedded import load_pipeline
        >>> from fxcache.calibration.sampler import sampler
        >>> pipe = load_pipeline()
        >>> found = sampler(pipe, [{"num_inference_steps": 4}], None, None)
        >>> found.runs, found.scheduler
        (1, 'FlowMatchEulerDiscreteScheduler')
    """
    if is_pipeline(target):
        if not calls or run is not None or runs is not None:
            raise CalibrationError(
                "a pipeline is calibrated on calls", "Give a list of what pipe(**call) is called with."
            )
        return _of_pipeline(target, [dict(call) for call in calls])
    model = require_model(_plain(target))
    if run is None or not runs or calls is not None:
        raise CalibrationError(
            "a model is calibrated by sampling with it", "Give run=lambda model, i: ... and runs=8."
        )
    draw = run
    options = {"model": _options(target)}
    return Sampler({"model": model}, options, runs, lambda i, players: draw(players["model"], i), [])


def _of_pipeline(pipe: Any, calls: list[dict[str, Any]]) -> Sampler:
    found = denoisers(pipe)
    if not found:
        raise NoDenoiserError(type(pipe).__name__, tuple(pipe.components))

    def draw(i: int, players: Players) -> Any:
        before = {name: pipe.components[name] for name in players}
        shown = getattr(pipe, "_progress_bar_config", None)
        try:
            for name, player in players.items():
                setattr(pipe, name, player)
            pipe._progress_bar_config = {"disable": True}  # there is one for all runs
            return pipe(**calls[i])
        finally:
            for name, module in before.items():
                setattr(pipe, name, module)
            if shown is None:
                del pipe._progress_bar_config
            else:
                pipe._progress_bar_config = shown

    plain = {name: require_model(_plain(module)) for name, module in found.items()}
    options = {name: _options(module) for name, module in found.items()}
    scheduler = getattr(pipe, "scheduler", None)
    name = None if scheduler is None else type(scheduler).__name__
    return Sampler(plain, options, len(calls), draw, list(generators(calls)), name, calls)


def _plain(module: Any) -> Any:
    return module.original if isinstance(module, CachedTransformer) else module


def _options(module: Any) -> Mapping[str, Any]:
    return module.captured_as if isinstance(module, CachedTransformer) else {}
