"""Block caching for diffusion transformers, compiled into the model's graph.

Example:
    >>> import fxcache
    >>> from fxcache.embedded import load_pipeline, sample
    >>> pipe = load_pipeline()
    >>> pipe.transformer = fxcache.transform(pipe.transformer, "F1B0_W4M0MC3_T1O1_R0.12")
    >>> sample(pipe, [7], num_inference_steps=2).shape  # [batch, channels, height, width]
    torch.Size([1, 1, 28, 28])
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
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

# Where each name is defined. It is imported when it is first asked for, so that what only looks in, as the
# command line's help and the shell's completion do, does not wait for torch and diffusers.
HOMES = {
    "compile": ".api.compile",
    "Explanation": ".api.explain",
    "explain": ".api.explain",
    "export": ".api.export",
    "load": ".api.load",
    "transform": ".api.transform",
    "calibrate": ".calibration.calibrate",
    "Frontier": ".calibration.frontier",
    "CacheConfig": ".config",
    "FxcacheError": ".errors",
    "Forecaster": ".forecasters",
    "HiCache": ".forecasters",
    "Newton": ".forecasters",
    "Reuse": ".forecasters",
    "Spectrum": ".forecasters",
    "TaylorSeer": ".forecasters",
    "PackagedTransformer": ".package.packaged_transformer",
    "Plan": ".plans",
    "plan": ".plans.formula",
    "Budget": ".policies",
    "DBCache": ".policies",
    "EasyCache": ".policies",
    "FixedInterval": ".policies",
    "ForecastError": ".policies",
    "GrowingWindow": ".policies",
    "MagCache": ".policies",
    "Policy": ".policies",
    "SeaCache": ".policies",
    "TeaCache": ".policies",
    "CachedTransformer": ".runtime.cached_transformer",
    "restore": ".runtime.diffusers_pipeline",
    "ContextStats": ".runtime.stats",
    "Stats": ".runtime.stats",
}


def __getattr__(name: str) -> Any:
    """A public name, or a module of this package, as `fxcache.errors`."""
    if name in HOMES:
        return getattr(importlib.import_module(HOMES[name], __name__), name)
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
