"""What a cached value is made of in a hit: a forecaster's weights, or those of plans."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..config import CacheConfig
from ..forecasters import Forecaster, Reuse

REUSE = Reuse()
DTYPES = {
    "model": None,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8": torch.float8_e4m3fn,
}


@dataclass(frozen=True)
class Method:
    """What the values of a segment are made of.

    values: k, how many computed values are remembered. dtype: of what is remembered; None is the values' own.
    offload: whether that lies in host memory. whole: why a middle's value is cached itself; None
        where its residual is. forecaster: None where plans say it. feedback: whether computed steps pay back.

    Example:
        >>> from fxcache import CacheConfig
        >>> from fxcache.ir.method import Method
        >>> Method.of(CacheConfig()).name
        'Reuse'
    """

    values: int
    whole: str | None
    forecaster: Forecaster | None
    feedback: bool
    dtype: torch.dtype | None = None
    offload: bool = False

    @staticmethod
    def of(config: CacheConfig) -> Method:
        """That of a config.

        Example:
            >>> from fxcache import CacheConfig, TaylorSeer
            >>> from fxcache.ir.method import Method
            >>> Method.of(CacheConfig(forecaster=TaylorSeer(order=2))).values
            3
        """
        if config.plans:
            whole = None if config.plans[0].level == "residual" else "the plan is for hidden states"
            return Method(config.values, whole, None, True, *_stored(config))
        forecaster = config.forecaster or REUSE
        calibrate = forecaster.calibrate
        whole = None if calibrate == "residual" else f'the forecaster has calibrate="{calibrate}"'
        return Method(forecaster.snapshots, whole, forecaster, config.feedback, *_stored(config))

    @property
    def name(self) -> str:
        """What to call it."""
        return "Plan" if self.forecaster is None else type(self.forecaster).__name__


def _stored(config: CacheConfig) -> tuple[torch.dtype | None, bool]:
    return DTYPES[config.history_dtype], config.history_offload
