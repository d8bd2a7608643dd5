"""What a user of an engine asks for, by the steps of a run."""

from __future__ import annotations

from dataclasses import dataclass

import fxcache
from fxcache.config import CacheConfig, ConfigLike, as_config


@dataclass(frozen=True)
class Settings:
    """What a user of an engine asks for: a speedup, or a setting as `fxcache.transform` takes it.

    Example:
        >>> from fxcache.integrations.settings import Settings
        >>> str(Settings(speedup=2.0).of_run(10)), str(Settings(config="2x@28").of_run(10))
        ('P10K5', 'P28K14')
    """

    speedup: float | None = None
    config: ConfigLike = None

    def of_run(self, steps: int) -> CacheConfig:
        """Those of a run; a speedup becomes a plan for its steps. One step is never cached."""
        if self.speedup is None:
            return as_config(self.config)
        return as_config(fxcache.plan(steps, self.speedup) if steps > 1 else "C0_Q0_NONE")
