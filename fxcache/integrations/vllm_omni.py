"""`cache_backend="fxcache"` in vLLM-Omni, which finds this plug-in by the entry point.

Its `cache_config` is read as cache-dit's (DBCache by `Fn_compute_blocks` and so on); with `speedup`, or
`setting` (the notation, or the path of a plan's file), by that.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

from vllm_omni.diffusion.cache import selector
from vllm_omni.diffusion.cache.base import CacheBackend
from vllm_omni.diffusion.data import DiffusionCacheConfig

from fxcache import CacheConfig, TaylorSeer
from fxcache.errors import ConfigError, UnknownOptionError

from .denoisers import Denoisers
from .settings import Settings

NAME = "fxcache"
OURS = ("speedup", "setting")
# Fields of theirs that have no meaning here, where they differ from their defaults.
REFUSED = ("scm_steps_mask_policy", "force_refresh_step_hint")
RUNNER = "vllm_omni.diffusion.worker.diffusion_model_runner"


class FxcacheBackend(CacheBackend):
    """Every denoiser of a pipeline, cached. A refresh begins a run."""

    def __init__(self, config: DiffusionCacheConfig | dict[str, Any] | None = None) -> None:
        given = config or {}
        super().__init__(DiffusionCacheConfig.from_dict(given) if isinstance(given, dict) else given)
        self.settings = settings_of(self.config)
        self.denoisers: Denoisers | None = None

    def enable(self, pipeline: Any) -> None:
        names = getattr(pipeline, "_dit_modules", None) or ("transformer", "transformer_2")
        denoisers = Denoisers(pipeline, names, self.settings)
        denoisers.cache()
        self.denoisers, self.enabled = denoisers, True

    def refresh(self, pipeline: Any, num_inference_steps: int, verbose: bool = True) -> None:
        if self.denoisers is not None:
            self.denoisers.begin(num_inference_steps)

    def disable(self, pipeline: Any) -> None:
        if self.denoisers is not None:
            self.denoisers.restore()
        self.denoisers, self.enabled = None, False


def settings_of(config: DiffusionCacheConfig) -> Settings:
    """What a `cache_config` of vLLM-Omni means.

    Raises:
        UnknownOptionError: a name that neither it nor fxcache has. ConfigError: a field that fxcache has no
        counterpart of, or a value that cannot work.
    """
    extra = dict(config._extra_params)
    for name in extra.keys() - set(OURS):
        known = (*OURS, *(f.name for f in fields(config) if not f.name.startswith("_")))
        raise UnknownOptionError("cache_config of fxcache", name, None, known)
    if extra.get("setting"):
        return Settings(config=extra["setting"])
    if extra.get("speedup"):
        return Settings(speedup=float(extra["speedup"]))
    for name in REFUSED:
        if getattr(config, name) is not None:
            raise ConfigError(name, getattr(config, name), "leave it out", of="cache_config of fxcache")
    return Settings(
        config=CacheConfig(
            fn_compute_blocks=config.Fn_compute_blocks,
            bn_compute_blocks=config.Bn_compute_blocks,
            max_warmup_steps=config.max_warmup_steps,
            max_cached_steps=limit(config.max_cached_steps),
            max_continuous_cached_steps=limit(config.max_continuous_cached_steps),
            residual_diff_threshold=config.residual_diff_threshold,
            forecaster=TaylorSeer(order=config.taylorseer_order) if config.enable_taylorseer else None,
        )
    )


def limit(count: int) -> int | None:
    """Theirs: a negative number is no limit."""
    return None if count < 0 else count


def register() -> None:
    """Called by vLLM-Omni in each of its processes: its selector knows the name from then on."""
    theirs = selector.get_cache_backend

    def get_cache_backend(cache_backend: str | None, cache_config: Any) -> Any:
        return FxcacheBackend(cache_config) if cache_backend == NAME else theirs(cache_backend, cache_config)

    for name in (selector.__name__, RUNNER):  # the runner, where it is loaded, has the function by name
        vars(sys.modules.get(name, selector))["get_cache_backend"] = get_cache_backend
