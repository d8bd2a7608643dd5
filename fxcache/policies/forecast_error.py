"""The forecast's own error, where it can be seen: on the front residual."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Against, Policy, Signal


@dataclass(frozen=True)
class ForecastError(Policy):
    """`mean|f - g| / mean|g|`, g being what the config's forecaster expects of the front residual f.

    The front residual's history is kept beside that of the middle: a step is a hit where the method that
    would replace the middle works on the front. With the forecaster Reuse, or none, it is DBCache. Source:
    ours; TAP (arXiv 2603.03792) picks forecasters by the same error.

    Example:
        >>> from fxcache import CacheConfig, ForecastError, TaylorSeer
        >>> print(CacheConfig(policy=ForecastError(), forecaster=TaylorSeer()))
        F8B0_W8M0MC0_T1O1_R0.08_D{"name":"forecasterror"}
    """

    signal: ClassVar[Signal] = "residual"
    against: ClassVar[Against] = "forecast"
