"""What a sampler says of the step that it is at: `cache_context(name, step_index=, num_inference_steps=)`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..config import CacheConfig


@dataclass(frozen=True)
class Sampling:
    """count: steps of the whole run. index: which one this is, from 0; None where it is not said.

    Example:
        >>> from fxcache.runtime.sampling import Sampling
        >>> Sampling.of({"step_index": 3, "num_inference_steps": 28, "sigma": 0.9})
        Sampling(count=28, index=3)
        >>> Sampling.of({"sigma": 0.9}) is None
        True
    """

    count: int
    index: int | None

    @staticmethod
    def of(information: Mapping[str, Any]) -> Sampling | None:
        """What is of use in what diffusers' pipelines send; None where that is nothing."""
        count, index = information.get("num_inference_steps"), information.get("step_index")
        if not isinstance(count, int) or count < 1:
            return None
        return Sampling(count, index if isinstance(index, int) and 0 <= index < count else None)

    def settings(self, config: CacheConfig, first: int) -> CacheConfig:
        """`config` for the part of the run from step `first` on, which is all that a denoiser sees of it.

        Example:
            >>> from fxcache import CacheConfig
            >>> from fxcache.runtime.sampling import Sampling
            >>> config = CacheConfig(start_percent=0.25, end_percent=0.75)
            >>> found = Sampling(40, index=20).settings(config, first=20)  # a second denoiser's half
            >>> found.steps, found.start_percent, found.end_percent
            (20, 0.0, 0.5)
        """
        return _settings(config, self.count, first)


@functools.lru_cache(maxsize=64)
def _settings(config: CacheConfig, count: int, first: int) -> CacheConfig:
    left = count - first
    shares = (config.start_percent, config.end_percent)
    start, end = (min(max((share * count - first) / left, 0.0), 1.0) for share in shares)
    return config.replace(steps=left, start_percent=start, end_percent=end)
