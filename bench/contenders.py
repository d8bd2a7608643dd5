"""Who takes part in the comparison: each builds a pipeline of its own around the embedded model."""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline

import fxcache
from fxcache import CacheConfig, CachedTransformer, MagCache, TaylorSeer, embedded

OWN_MAGCACHE = "fxcache MagCache"
PLANNED = (1.5, 2.5)  # speedups of the rows of plans, by formula


@dataclass(frozen=True)
class Contender:
    """One row. build: a pipeline ready to draw. steps: None for the comparison's.

    same_hits_as: the contender whose cached steps must be the same, where semantics say so.
    """

    name: str
    build: Callable[[], FluxPipeline]
    steps: int | None = None
    same_hits_as: str | None = None


def fresh_pipeline() -> FluxPipeline:
    """A pipeline with weights and a class of its own: some peers patch the pipeline's class."""
    pipe = embedded.load_pipeline()
    pipe.__class__ = type("FluxPipeline", (FluxPipeline,), {})
    return pipe


def contenders(config: CacheConfig, steps: int) -> list[Contender]:
    """All rows but fewer plain steps, whose number depends on what these do.

    Args:
        config: the DBCache setting; it is run with and without TaylorSeer of order 1.
        steps: denoising steps, which MagCache's calibration needs.
    """
    reuse, taylor = config.replace(forecaster=None), config.replace(forecaster=TaylorSeer(order=1))
    threshold = config.residual_diff_threshold
    first_block = CacheConfig(fn_compute_blocks=1, max_warmup_steps=1, residual_diff_threshold=threshold)
    own = [Contender(f"fxcache {c}", _fxcache(c)) for c in (reuse, taylor, first_block)]
    return [
        Contender("plain", fresh_pipeline),
        *own,
        *(Contender(f"fxcache plan, {s:g}x", _fxcache(_plan(steps, s))) for s in PLANNED),
        *_cache_dit(reuse, own[0].name, own[1].name),
        Contender("diffusers FirstBlockCache", _first_block(threshold), same_hits_as=own[2].name),
        Contender("diffusers TaylorSeerCache, every 3rd step", _taylorseer_cache(3)),
        Contender(OWN_MAGCACHE, _own_mag_cache(steps)),
        Contender("diffusers MagCache", _mag_cache(steps), same_hits_as=OWN_MAGCACHE),
    ]


def fewer_steps(steps: int) -> Contender:
    return Contender(f"plain, {steps} steps", fresh_pipeline, steps)


def compiled(pipe: FluxPipeline) -> None:
    """Compile a pipeline's transformer as its makers advise."""
    model = pipe.transformer
    if isinstance(model, CachedTransformer):
        pipe.transformer = fxcache.compile(model)
    else:
        model.compile()


def _plan(steps: int, speedup: float) -> CacheConfig:
    return CacheConfig.from_plans(fxcache.plan(steps=steps, speedup=speedup))


def _fxcache(config: CacheConfig) -> Callable[[], FluxPipeline]:
    def build() -> FluxPipeline:
        pipe = fresh_pipeline()
        pipe.transformer = fxcache.transform(pipe.transformer, config)
        return pipe

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


def _dbcache(config: CacheConfig, calibrator: Any) -> Callable[[], FluxPipeline]:
    import cache_dit

    def build() -> FluxPipeline:
        pipe = fresh_pipeline()
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


def _first_block(threshold: float) -> Callable[[], FluxPipeline]:
    def build() -> FluxPipeline:
        pipe = fresh_pipeline()
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
        return pipe

    return build


def _taylorseer_cache(interval: int) -> Callable[[], FluxPipeline]:
    def build() -> FluxPipeline:
        pipe = fresh_pipeline()
        pipe.transformer.enable_cache(
            TaylorSeerCacheConfig(
                cache_interval=interval,
                disable_cache_before_step=4,
                max_order=1,
                taylor_factors_dtype=torch.float32,
            )
        )
        return pipe

    return build


def _mag_cache(steps: int) -> Callable[[], FluxPipeline]:
    def build() -> FluxPipeline:
        pipe = fresh_pipeline()
        ratios = _mag_ratios(steps)
        pipe.transformer.enable_cache(MagCacheConfig(mag_ratios=ratios, num_inference_steps=steps))
        return pipe

    return build


def _own_mag_cache(steps: int) -> Callable[[], FluxPipeline]:
    """As diffusers' does by default, with the same ratios."""

    def build() -> FluxPipeline:
        other = MagCacheConfig(mag_ratios=_mag_ratios(steps), num_inference_steps=steps)
        config = CacheConfig(
            fn_compute_blocks=0,
            max_warmup_steps=int(other.retention_ratio * steps + 0.5),
            max_continuous_cached_steps=other.max_skip_steps,
            residual_diff_threshold=other.threshold,
            policy=MagCache(other.mag_ratios.tolist()),
        )
        return _fxcache(config)()

    return build


def _mag_ratios(steps: int) -> torch.Tensor:
    """Calibrate as MagCache asks: one run, whose ratios it prints."""
    pipe = fresh_pipeline()
    pipe.transformer.enable_cache(MagCacheConfig(calibrate=True, num_inference_steps=steps))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        embedded.sample(pipe, range(10), num_inference_steps=steps)
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("[")]
    return torch.tensor(ast.literal_eval(lines[-1]))
