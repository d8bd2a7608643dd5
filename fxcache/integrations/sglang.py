"""fxcache by request in SGLang's diffusion server, which finds this plug-in by the entry point.

A request asks for it with `cache_dit_params={"fxcache": {"speedup": 2.0}}`, or `{"setting": ...}` (the
notation, or the path of a plan's file), beside what it may say to cache-dit; `enable_cache_dit` stays the
switch. Requests without it are SGLang's as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from sglang.multimodal_gen.runtime.platforms.plugins import HookType, plugin_hook

from fxcache.spelling import require_known

from .denoisers import Denoisers
from .settings import Settings

KEY = "fxcache"
STAGE = "sglang.multimodal_gen.runtime.pipelines_core.stages.denoising.DenoisingStage"
NAMES = ("transformer", "transformer_2")


class Requests:
    """What each denoising stage has mounted; called around the stage's own mounting of cache-dit."""

    def __init__(self) -> None:
        self.mounted: WeakKeyDictionary[Any, Denoisers] = WeakKeyDictionary()

    def __call__(self, theirs: Callable[..., None], stage: Any, steps: Any, batch: Any) -> None:
        settings = settings_of(batch.sampling_params)
        if settings is None:
            if stage in self.mounted:
                self.mounted.pop(stage).restore()
            theirs(stage, steps, batch)
            return
        if stage._cache_dit_enabled:
            stage._unmount_cache_dit()
        if stage not in self.mounted:
            denoisers = Denoisers(stage, NAMES, settings)
            denoisers.cache()
            self.mounted[stage] = denoisers
        counts = steps if isinstance(steps, tuple) else (steps, steps)
        self.mounted[stage].begin(dict(zip(NAMES, counts, strict=True)), settings)


def settings_of(params: Any) -> Settings | None:
    """What a request asks of fxcache; None where it asks nothing, or switches caches off.

    Raises:
        UnknownOptionError: it asks for what there is not.
    """
    asked: Mapping[str, Any] | None = (params.cache_dit_params or {}).get(KEY)
    if asked is None or params.enable_cache_dit is False:
        return None
    require_known(f"cache_dit_params[{KEY!r}]", asked, ("speedup", "setting"))
    if asked.get("setting"):
        return Settings(config=asked["setting"])
    return Settings(speedup=float(asked.get("speedup", 2.0)))


def register() -> None:
    """Called by SGLang in each of its processes, before it applies hooks."""
    plugin_hook(f"{STAGE}._maybe_enable_cache_dit", type=HookType.AROUND)(Requests())
