"""DBCache: how far the front residual moved since the last computed step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .base import Against, Policy, Signal


@dataclass(frozen=True)
class DBCache(Policy):
    """`mean|f - f_c| / mean|f_c|`, f being what the first Fn blocks add, c the last computed step.

    Source: DBCache (cache-dit) and, with Fn = 1, FBCache (ParaAttention).

    Example:
        >>> from fxcache import CacheConfig, DBCache
        >>> CacheConfig().policy == DBCache()
        True
    """

    signal: ClassVar[Signal] = "residual"
    against: ClassVar[Against] = "computed"
