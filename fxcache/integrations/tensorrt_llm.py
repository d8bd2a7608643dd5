"""A cache for the pipelines of TensorRT-LLM's `visual_gen`: `install(pipeline, speedup=2.0)`."""

from __future__ import annotations

from typing import Any

from tensorrt_llm._torch.visual_gen.cache.base import CacheAccelerator

from fxcache.config import ConfigLike
from fxcache.errors import ConfigError

from .denoisers import Denoisers
from .settings import Settings


class FxcacheAccelerator(CacheAccelerator):
    """Every transformer of a pipeline, cached. Its denoising loop refreshes at the begin of each run."""

    def __init__(self, pipeline: Any, settings: Settings, **options: Any) -> None:
        names = [str(getattr(name, "value", name)) for name in pipeline.transformer_components]
        self._denoisers = Denoisers(pipeline, names, settings, options)

    def wrap(self, *args: Any, **kwargs: Any) -> None:
        if not self.is_enabled():
            self._denoisers.cache()

    def unwrap(self) -> None:
        self._denoisers.restore()

    def refresh(self, num_inference_steps: int, separate_cfg: bool | None = None) -> None:
        """separate_cfg: is not needed, calls of other prompts are told apart by themselves."""
        self._denoisers.begin(num_inference_steps)

    def get_stats(self) -> dict[str, Any]:
        """By transformer and context: `steps`, `cached_steps`."""
        return {
            name: {
                context: {"steps": found.steps, "cached_steps": found.cached_steps}
                for context, found in cached.stats().contexts.items()
            }
            for name, cached in self._denoisers.cached.items()
        }

    def is_enabled(self) -> bool:
        return bool(self._denoisers.cached)


def install(
    pipeline: Any, config: ConfigLike = None, *, speedup: float | None = None, **options: Any
) -> FxcacheAccelerator:
    """Cache a loaded pipeline, in the place of the accelerator that its own config chose.

    config, speedup: as `Settings`. options: of `fxcache.transform`, as `process_group` where ranks share a
    forward.
    """
    if pipeline.pipeline_config.cuda_graph.enable:
        raise ConfigError("cuda_graph", True, "switch it off", of="a pipeline that fxcache caches")
    if pipeline.cache_accelerator is not None:
        pipeline.cache_accelerator.unwrap()
    accelerator = FxcacheAccelerator(pipeline, Settings(speedup, config), **options)
    accelerator.wrap()
    pipeline.cache_accelerator = accelerator
    return accelerator
