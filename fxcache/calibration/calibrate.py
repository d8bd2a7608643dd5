"""`calibrate`: runs the plain sampler, fits plans, plays them, and says what they do on other runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from torch import nn

from ..config import CacheConfig, ConfigLike, as_config
from ..errors import CalibrationError
from ..spelling import known_options
from .frontier import Frontier, Plans, quality_of, reaches
from .progress import OnProgress, Progress
from .sampler import Sampler, sampler
from .settings import Settings, cost, fitted_settings
from .study import Study

HELD_OUT = 0.25
SPEEDUP = 2.5


@overload
def calibrate(
    target: Any,
    calls: Sequence[Mapping[str, Any]] | None = None,
    *,
    run: Callable[[nn.Module, int], Any] | None = None,
    runs: int | None = None,
    speedup: Sequence[float],
    search: bool = True,
    held_out: float | None = None,
    values: int = 3,
    checkpoint: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Frontier: ...


@overload
def calibrate(
    target: Any,
    calls: Sequence[Mapping[str, Any]] | None = None,
    *,
    run: Callable[[nn.Module, int], Any] | None = None,
    runs: int | None = None,
    speedup: float | None = None,
    psnr: float | None = None,
    worst: float | None = None,
    config: ConfigLike = None,
    search: bool = True,
    held_out: float | None = None,
    values: int = 3,
    checkpoint: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Any: ...


@known_options("fxcache.calibrate()")
def calibrate(
    target: Any,
    calls: Sequence[Mapping[str, Any]] | None = None,
    *,
    run: Callable[[nn.Module, int], Any] | None = None,
    runs: int | None = None,
    speedup: float | Sequence[float] | None = None,
    psnr: float | None = None,
    worst: float | None = None,
    config: ConfigLike = None,
    search: bool = True,
    held_out: float | None = None,
    values: int = 3,
    checkpoint: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Any:
    """Fit a plan to what a model and its sampler really do; eight runs or so are enough.

    The plain runs are done first. Then the schedule is searched and its weights are fitted, without the
    model, and a few planned passes, played over the plain model, show what they do and refine them. Of the
    sampler nothing is known but the latents and outputs that the model sees, so any that calls it once
    a step will do; with guidance, as often in every step. Random numbers of a run are the same in every pass.

    A pipeline with several denoisers, which take turns in one run (Wan 2.2), gets a plan for each: a
    mapping from their names to plans, as `transform` takes it.

    Args:
        target: a diffusers pipeline; or a model, which `run` samples with. Of what `transform` made cached
            the plain model is calibrated, entered and captured as `transform` was told (`method`, `timestep`,
            `ignore`, `blocks` ...).
        calls: keyword arguments of `pipe(**call)`, one mapping a run.
        run: `run(model, i)` does the whole sampling of run i with `model` in the denoiser's place and
            returns what quality is measured on: images or latents. The same i is to give the same noise.
        runs: how many there are, numbered from 0.
        speedup: how many times fewer FLOPs of the denoiser, by default 2.5; several for a `Frontier`.
        psnr, worst: in place of `speedup`: the fastest plan of at least this quality, in dB, on average and
            in the worst 5%, as measured on the runs held out.
        config: in place of a plan, find the numbers of this setting: what its policy is fitted to, such as
            TeaCache's polynomial, and the threshold of the speedup.
        search: whether to search the schedule; else that of `fxcache.plan` is used.
        held_out: how many runs, or which share of them, quality is measured on and nothing is fitted to; by
            default a quarter of 4 and more runs. 0: no quality.
        values: k, of how many computed values a step is made, 1 to 4.
        checkpoint: a file for the plain runs, which are most of the work: a calibration that was interrupted
            goes on from there, one of the same runs at another speedup begins there.
        on_progress: called with (done, total, text), in samplings of one run; by default a bar is shown.

    Returns:
        A `Plan`, a mapping from denoisers to plans, or a `Frontier` of several speedups; with `config` a
        `CacheConfig`, or a mapping to such.

    Raises:
        CalibrationError: the runs cannot be calibrated, for example as a solver calls the model twice a step.
        PlanError: no such speedup, or no plan of that quality. NoDenoiserError: the pipeline has none.

    Example:
        >>> import fxcache
        >>> from fxcache.embedded import load_pipeline, load_transformer, sample
        >>> def run(model, i):
        ...     return sample(load_pipeline(model), [i], seeds=[i], num_inference_steps=6)
        >>> plan = fxcache.calibrate(
        ...     load_transformer(), run=run, runs=4, speedup=2, on_progress=lambda done, total, text: None
        ... )
        >>> plan.steps, len(plan.computed), plan.runs, plan.quality.runs
        (6, 3, 3, 1)
    """
    if sum(given is not None for given in (speedup, psnr if psnr is not None else worst)) > 1:
        raise CalibrationError("a speedup and a quality were asked for", "Give one of them.")
    found = sampler(target, calls, run, runs)
    if config is not None:
        return _settings(found, as_config(config), speedup, psnr if psnr is not None else worst, on_progress)
    several = isinstance(speedup, Sequence)
    by_quality = psnr is not None or worst is not None
    speedups = tuple(speedup) if isinstance(speedup, Sequence) else (speedup or SPEEDUP,)
    if not speedups:
        raise CalibrationError("no speedup was asked for", "Give one or more numbers above 1.")
    held = _held_out(held_out, found.runs)
    if by_quality and not held:
        raise CalibrationError("quality is measured on runs held out, and there are none", "Give more runs.")
    study = Study(found, held, values, search, Path(checkpoint) if checkpoint is not None else None)
    with Progress(on_progress, study.cost(BISECTION if by_quality else speedups)) as progress:
        study.begin(progress)
        if by_quality:
            return _fastest(study, psnr, worst, progress)
        plans = [study.plans(s, progress) for s in sorted(speedups)]
        return Frontier(tuple(plans)) if several else plans[0]


def _settings(
    found: Sampler, config: CacheConfig, speedup: Any, quality: float | None, on_progress: OnProgress | None
) -> Settings:
    """The numbers of a setting."""
    if quality is not None or isinstance(speedup, Sequence):
        raise CalibrationError("a setting is found for one speedup", "Give speedup=2.5, for example.")
    if config.plans or not config.enabled or config.static:
        raise CalibrationError(f"{config} has no threshold to find", "Give a config that has a policy.")
    wanted = float(speedup or SPEEDUP)
    with Progress(on_progress, cost(config, found.runs)) as progress:
        progress.say(f"at most {progress.total:.0f} samplings in all")
        return fitted_settings(found, config, wanted, progress)


BISECTION = (2.0,) * 5  # what a search for the speedup costs, roughly


def _held_out(asked: float | None, runs: int) -> int:
    """How many of the runs are held out."""
    if asked is None:
        return max(round(runs * HELD_OUT), 1) if runs >= 4 else 0
    number = math.ceil(asked * runs) if 0 < asked < 1 else asked
    if number != int(number) or not 0 <= number < runs:
        raise CalibrationError(
            f"held_out={asked!r} of {runs} runs leaves none to fit, or is no number",
            "Hold out fewer of them.",
        )
    return int(number)


def _fastest(study: Study, psnr: float | None, worst: float | None, progress: Progress) -> Plans:
    """By bisection over the number of computed steps: quality falls with the speedup."""
    steps = study.steps
    best, low, high = None, 1, steps  # `low` computed steps are too few, `high` are enough
    while high - low > 1:
        count = (low + high) // 2
        plans = study.plans(steps / count, progress)
        if reaches(quality_of(plans), psnr, worst):
            best, high = plans, count
        else:
            low = count
    if best is None:
        asked = f"psnr={psnr:g}" if psnr is not None else f"worst={worst:g}"
        raise CalibrationError(f"no plan that skips a step reaches {asked} dB", "Ask for less.")
    return best
