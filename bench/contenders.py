"""Who takes part in the comparison: each builds a pipeline of its own around the stage's model."""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    CacheMixin,
    DiffusionPipeline,
    FirstBlockCacheConfig,
    MagCacheConfig,
    TaylorSeerCacheConfig,
)

import fxcache
from bench.plans import FIRST_TEST
from bench.policies import as_made, calibrated, tunable
from bench.stages import Stage
from fxcache import CacheConfig, CachedTransformer, MagCache, TaylorSeer

Build = Callable[[Stage], DiffusionPipeline]
OWN_MAGCACHE = "fxcache MagCache, diffusers' ratios"
FITTED_ON = FIRST_TEST  # the first of the seeds that numbers are fitted on: none of them is drawn
# diffusers' own pattern knows no attn1 and attn2, and says nothing where it hooks nothing
ATTENTION = r".*transformer_blocks.*attn[12]?"
PLANNED = (1.5, 2.5)  # speedups of the rows of plans, by formula


@dataclass(frozen=True)
class Contender:
    """One row. build: a pipeline ready to draw on a stage. steps: None for the comparison's.

    same_hits_as: the contender whose cached steps must be the same, where semantics say so.
    calibrated: its threshold is found when it is built.
    """

    name: str
    build: Build
    steps: int | None = None
    same_hits_as: str | None = None
    calibrated: bool = False


def contenders(config: CacheConfig, steps: int) -> list[Contender]:
    """All rows but those whose numbers depend on what these do; plain and DBCache come first.

    Args:
        config: the DBCache setting; it is run with and without TaylorSeer of order 1.
        steps: denoising steps, which MagCache's calibration needs.
    """
    reuse, taylor = config.replace(forecaster=None), config.replace(forecaster=TaylorSeer(order=1))
    threshold = config.residual_diff_threshold
    first_block = CacheConfig(fn_compute_blocks=1, max_warmup_steps=1, residual_diff_threshold=threshold)
    own = [Contender(f"fxcache {c}", _fxcache(c)) for c in (reuse, taylor, first_block)]
    return [
        Contender("plain", Stage.fresh),
        *own,
        *(Contender(f"fxcache plan, {s:g}x", _fxcache(_plan(steps, s))) for s in PLANNED),
        *_cache_dit(reuse, own[0].name, own[1].name),
        Contender("diffusers FirstBlockCache", _first_block(threshold), same_hits_as=own[2].name),
        Contender("diffusers TaylorSeerCache, every 3rd step", _taylorseer_cache(3)),
        Contender(OWN_MAGCACHE, _own_mag_cache(steps)),
        Contender("diffusers MagCache", _mag_cache(steps), same_hits_as=OWN_MAGCACHE),
    ]


def policies(subject: str, steps: int, speedup: float, runs: int) -> list[Contender]:
    """Our policies, each with the numbers that bring this speedup on `runs` runs of other seeds."""
    return [
        Contender(
            f"fxcache {row.name}",
            _calibrated(row.config, steps, speedup, runs) if tunable(row.config) else _fxcache(row.config),
            calibrated=tunable(row.config),
        )
        for row in as_made(subject)
    ]


def fewer_steps(steps: int) -> Contender:
    return Contender(f"plain, {steps} steps", Stage.fresh, steps)


def compiled(pipe: DiffusionPipeline) -> None:
    """Compile a pipeline's transformer as its makers advise."""
    model = pipe.transformer
    if isinstance(model, CachedTransformer):
        pipe.transformer = fxcache.compile(model)
    else:
        model.compile()


def _plan(steps: int, speedup: float) -> CacheConfig:
    return CacheConfig.from_plans(fxcache.plan(steps=steps, speedup=speedup))


def _fxcache(config: CacheConfig) -> Build:
    def build(stage: Stage) -> DiffusionPipeline:
        pipe = stage.fresh()
        pipe.transformer = fxcache.transform(pipe.transformer, config)
        return pipe

    return build


def _calibrated(config: CacheConfig, steps: int, speedup: float, runs: int) -> Build:
    def build(stage: Stage) -> DiffusionPipeline:
        return _fxcache(calibrated(stage.subject, config, steps, speedup, runs, FITTED_ON))(stage)

    return build


def _cache_dit(config: CacheConfig, reuse: str, taylor: str) -> list[Contender]:
    """cache-dit with each of its forecasters, at the same setting."""
    import cache_dit

    calibrators = [
        ("", None, reuse),
        (" TaylorSeer O1", cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1), taylor),
        (" FoCa", cache_dit.FoCaCalibratorConfig(), None),
        (" DMD", cache_dit.DMDCalibratorConfig(), None),
    ]
    return [
        Contender(f"cache-dit DBCache{name}", _dbcache(config, calibrator), same_hits_as=same)
        for name, calibrator, same in calibrators
    ]


def _dbcache(config: CacheConfig, calibrator: Any) -> Build:
    import cache_dit

    def build(stage: Stage) -> DiffusionPipeline:
        pipe = stage.fresh()
        options = cache_dit.DBCacheConfig(
            Fn_compute_blocks=config.fn_compute_blocks,
            Bn_compute_blocks=config.bn_compute_blocks,
            max_warmup_steps=config.max_warmup_steps,
            max_cached_steps=config.max_cached_steps or -1,
            max_continuous_cached_steps=config.max_continuous_cached_steps or -1,
            residual_diff_threshold=config.residual_diff_threshold,
        )
        cache_dit.enable_cache(pipe, cache_config=options, calibrator_config=calibrator)
        return pipe

    return build


def _first_block(threshold: float) -> Build:
    return lambda stage: _hooked(stage, FirstBlockCacheConfig(threshold=threshold))


def _taylorseer_cache(interval: int) -> Build:
    config = TaylorSeerCacheConfig(
        cache_interval=interval,
        disable_cache_before_step=4,
        max_order=1,
        taylor_factors_dtype=torch.float32,
        cache_identifiers=[ATTENTION],
    )
    return lambda stage: _hooked(stage, config)


def _mag_cache(steps: int) -> Build:
    return lambda stage: _hooked(stage, _mag_config(stage, steps))


def _own_mag_cache(steps: int) -> Build:
    """As diffusers' does by default, with the same ratios."""

    def build(stage: Stage) -> DiffusionPipeline:
        other = _mag_config(stage, steps)
        config = CacheConfig(
            fn_compute_blocks=0,
            max_warmup_steps=int(other.retention_ratio * steps + 0.5),
            max_continuous_cached_steps=other.max_skip_steps,
            residual_diff_threshold=other.threshold,
            policy=MagCache(other.mag_ratios.tolist()),
        )
        return _fxcache(config)(stage)

    return build


def _mag_config(stage: Stage, steps: int) -> MagCacheConfig:
    """Calibrated as MagCache asks: by one run, whose ratios it prints."""
    pipe = _hooked(stage, MagCacheConfig(calibrate=True, num_inference_steps=steps))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        stage.draw(pipe, range(FITTED_ON, FITTED_ON + 10), steps)
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("[")]
    return MagCacheConfig(mag_ratios=torch.tensor(ast.literal_eval(lines[-1])), num_inference_steps=steps)


def _hooked(stage: Stage, config: Any) -> DiffusionPipeline:
    """With one of diffusers' caches. Some classes that these can hook lack the mixin that does it."""
    pipe = stage.fresh()
    kind = type(pipe.transformer)
    if not issubclass(kind, CacheMixin):
        pipe.transformer.__class__ = type(kind.__name__, (kind, CacheMixin), {})
    pipe.transformer.enable_cache(config)
    return pipe
