"""The cache of one ComfyUI model: graphs that stay from sampling to sampling, and contexts by conditions."""

from __future__ import annotations

import inspect
from typing import Any

import fxcache
from fxcache.config import CacheConfig
from fxcache.errors import ConfigError, GraphSettingError, PlanError
from fxcache.integrations.settings import Settings

BRANCHES = ("cond", "uncond")


class SampledCache:
    """What one node makes of its model. Between samplings it keeps the graphs, and no tensor."""

    def __init__(self, speedup: float, steps: int, setting: str) -> None:
        self.speedup, self.steps, self.setting = speedup, steps, setting
        self.cached: dict[int, fxcache.CachedTransformer] = {}  # by the model, one on each device
        self.begun: set[int] = set()  # which of them the sampling under way has called
        self.config: CacheConfig | None = None  # of that sampling
        self.names: dict[tuple[Any, ...], str] = {}

    def outer_sample(self, executor: Any, *args: Any) -> Any:
        """One sampling of (noise, latent, sampler, sigmas, ...), however it ends."""
        self.config = self.settings(self.steps or len(args[3]) - 1)
        self.begun, self.names = set(), {}
        try:
            return executor(*args)
        finally:
            self.config = None
            for cached in self.cached.values():
                cached._reset_stateful_cache()

    def settings(self, steps: int) -> CacheConfig:
        return (Settings(config=self.setting) if self.setting else Settings(self.speedup)).of_run(steps)

    def apply_model(self, executor: Any, *args: Any, **conditions: Any) -> Any:
        """One call (x, time, ..., options), with the transformed model in the place of the model."""
        *given, options = args
        if "torch.compile" in options.get("wrappers", {}).get("apply_model", {}):
            need = "remove the node that compiles it"
            raise ConfigError("model", "torch.compile", need, of="the node fxcache")
        base = executor.class_obj
        model = base.diffusion_model
        cached = base.diffusion_model = self.transformed(model)
        try:
            with cached.cache_context(self.name(options)):
                return executor(*given, for_the_model(options), **conditions)
        finally:
            base.diffusion_model = model

    def transformed(self, model: Any) -> fxcache.CachedTransformer:
        """`model`, transformed; for another sampling's settings anew only where they need another graph."""
        cached = self.cached.get(id(model))  # which holds the model
        if cached is not None and id(model) in self.begun:
            return cached
        self.begun.add(id(model))
        config = self.config or self.settings(self.steps)
        if cached is not None:
            cached.reset()
            try:
                cached.configure(config)
                return cached
            except (GraphSettingError, PlanError):
                pass
        _, time, *_ = inspect.signature(model.forward).parameters  # all of ComfyUI's begin so
        self.cached[id(model)] = fxcache.transform(model, config, timestep=time)
        return self.cached[id(model)]

    def name(self, options: dict[str, Any]) -> str:
        """That of the conditions of a call, by their ids, which stay the same during a sampling."""
        kinds = options["cond_or_uncond"]
        key = tuple(options.get("uuids", kinds))
        if key not in self.names:
            name = "+".join(BRANCHES[kind] if kind < len(BRANCHES) else f"cond {kind}" for kind in kinds)
            alike = sum(known.partition(" #")[0] == name for known in self.names.values())
            self.names[key] = f"{name} #{alike + 1}" if alike else name
        return self.names[key]

    def report(self) -> str:
        return "\n\n".join(str(c.stats()) for c in self.cached.values()) or "nothing was sampled yet"


def for_the_model(options: dict[str, Any]) -> dict[str, Any]:
    """What the model's code and patches in it can read; ids are other ones in every sampling."""
    inner = options.get("wrappers", {}).get("diffusion_model", {})
    kept = {k: v for k, v in options.items() if k not in ("uuids", "callbacks", "wrappers", "cond_or_uncond")}
    patched = inner or kept.get("patches") or kept.get("patches_replace")
    own = {"cond_or_uncond": options["cond_or_uncond"]} if patched else {}
    return {**kept, **own, **({"wrappers": {"diffusion_model": inner}} if inner else {})}
