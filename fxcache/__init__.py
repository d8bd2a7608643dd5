"""Block caching for diffusion transformers, compiled into the model's graph.

Example:
    >>> import fxcache
    >>> from fxcache.embedded import load_pipeline, sample
    >>> pipe = load_pipeline()
    >>> pipe.transformer = fxcache.transform(pipe.transformer, "F1B0_W4M0MC3_T1O1_R0.12")
    >>> sample(pipe, [7], num_inference_steps=2).shape  # [batch, channels, height, width]
    torch.Size([1, 1, 28, 28])
"""

from .api.compile import compile
from .api.explain import Explanation, explain
from .api.export import export
from .api.load import load
from .api.transform import transform
from .calibration.calibrate import calibrate
from .calibration.frontier import Frontier
from .config import CacheConfig
from .errors import FxcacheError
from .forecasters import Forecaster, HiCache, Newton, Reuse, Spectrum, TaylorSeer
from .package.packaged_transformer import PackagedTransformer
from .plans import Plan
from .plans.formula import plan
from .policies import (
    Budget,
    DBCache,
    EasyCache,
    FixedInterval,
    ForecastError,
    GrowingWindow,
    MagCache,
    Policy,
    SeaCache,
    TeaCache,
)
from .runtime.cached_transformer import CachedTransformer
from .runtime.diffusers_pipeline import restore
from .runtime.stats import ContextStats, Stats
from .version import __version__ as __version__

__all__ = [
    "Budget",
    "CacheConfig",
    "CachedTransformer",
    "ContextStats",
    "DBCache",
    "EasyCache",
    "Explanation",
    "FixedInterval",
    "ForecastError",
    "Forecaster",
    "Frontier",
    "FxcacheError",
    "GrowingWindow",
    "HiCache",
    "MagCache",
    "Newton",
    "PackagedTransformer",
    "Plan",
    "Policy",
    "Reuse",
    "SeaCache",
    "Spectrum",
    "Stats",
    "TaylorSeer",
    "TeaCache",
    "calibrate",
    "compile",
    "explain",
    "export",
    "load",
    "plan",
    "restore",
    "transform",
]
