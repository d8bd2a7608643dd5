"""Block caching for diffusion transformers, compiled into the model's graph.

>>> import fxcache
>>> pipe.transformer = fxcache.transform(pipe.transformer, "F8B0_W8M0MC3_T1O1_R0.12")  # doctest: +SKIP
"""

from .api import transform
from .cached import CachedTransformer
from .compiling import compile
from .config import CacheConfig
from .errors import FxcacheError
from .explaining import Explanation, explain
from .exporting import export
from .forecasters import Forecaster, HiCache, Newton, Reuse, TaylorSeer
from .loading import load
from .packaged import PackagedTransformer
from .pipelines import restore
from .stats import ContextStats, Stats

__version__ = "0.1.0"

__all__ = [
    "CacheConfig",
    "CachedTransformer",
    "ContextStats",
    "Explanation",
    "Forecaster",
    "FxcacheError",
    "HiCache",
    "Newton",
    "PackagedTransformer",
    "Reuse",
    "Stats",
    "TaylorSeer",
    "compile",
    "explain",
    "export",
    "load",
    "restore",
    "transform",
]
