"""What the adapters import of serving engines, by its interface; one that is installed is used itself."""

from __future__ import annotations

import importlib
import sys
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

import pytest


@contextmanager
def adapter(name: str, engine: dict[str, dict[str, Any]]) -> Iterator[Any]:
    """The module `fxcache.integrations.<name>`, imported with what the engine has in place of the engine.

    engine: attributes by module, for an engine that is not installed.
    """
    with pytest.MonkeyPatch.context() as patch:
        try:
            for module in engine:
                importlib.import_module(module)
        except ImportError:
            for module, attributes in engine.items():
                place(patch, module, attributes)
        patch.delitem(sys.modules, f"fxcache.integrations.{name}", raising=False)
        yield importlib.import_module(f"fxcache.integrations.{name}")
        sys.modules.pop(f"fxcache.integrations.{name}")


def place(patch: pytest.MonkeyPatch, name: str, attributes: dict[str, Any]) -> None:
    """A module of this name, and the packages that it lies in."""
    parent = None
    for i, part in enumerate(parts := name.split("."), start=1):
        path = ".".join(parts[:i])
        if path not in sys.modules:
            patch.setitem(sys.modules, path, types.ModuleType(path))
        if parent is not None:
            setattr(parent, part, sys.modules[path])
        parent = sys.modules[path]
    vars(parent).update(attributes)


@dataclass
class DiffusionCacheConfig:
    """vLLM-Omni's, as far as it is read."""

    Fn_compute_blocks: int = 1
    Bn_compute_blocks: int = 0
    max_warmup_steps: int = 4
    max_cached_steps: int = -1
    residual_diff_threshold: float = 0.24
    max_continuous_cached_steps: int = 3
    enable_taylorseer: bool = False
    taylorseer_order: int = 1
    scm_steps_mask_policy: str | None = None
    force_refresh_step_hint: int | None = None
    _extra_params: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> DiffusionCacheConfig:
        known = {f.name for f in fields(cls)}
        own = {k: v for k, v in given.items() if k in known}
        return cls(**own, _extra_params={k: v for k, v in given.items() if k not in known})


class CacheBackend(ABC):
    """vLLM-Omni's."""

    def __init__(self, config: DiffusionCacheConfig) -> None:
        self.config, self.enabled = config, False

    @abstractmethod
    def enable(self, pipeline: Any) -> None: ...

    @abstractmethod
    def refresh(self, pipeline: Any, num_inference_steps: int, verbose: bool = True) -> None: ...

    def is_enabled(self) -> bool:
        return self.enabled


def get_cache_backend(cache_backend: str | None, cache_config: Any) -> Any:
    if cache_backend in (None, "none"):
        return None
    raise ValueError(f"Unsupported cache backend: {cache_backend}")


VLLM_OMNI: dict[str, dict[str, Any]] = {
    "vllm_omni.diffusion.data": {"DiffusionCacheConfig": DiffusionCacheConfig},
    "vllm_omni.diffusion.cache.base": {"CacheBackend": CacheBackend},
    "vllm_omni.diffusion.cache.selector": {"get_cache_backend": get_cache_backend},
}


class CacheAccelerator(ABC):
    """TensorRT-LLM's."""

    @abstractmethod
    def wrap(self, *args: Any, **kwargs: Any) -> None: ...

    @abstractmethod
    def unwrap(self) -> None: ...

    @abstractmethod
    def refresh(self, num_inference_steps: int) -> None: ...

    @abstractmethod
    def get_stats(self) -> dict[str, Any]: ...

    @abstractmethod
    def is_enabled(self) -> bool: ...


TENSORRT_LLM: dict[str, dict[str, Any]] = {
    "tensorrt_llm._torch.visual_gen.cache.base": {"CacheAccelerator": CacheAccelerator}
}


class HookType(Enum):
    AROUND = "around"


def plugin_hook(target: str, type: HookType) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return lambda hook: hook


SGLANG: dict[str, dict[str, Any]] = {
    "sglang.multimodal_gen.runtime.platforms.plugins": {"HookType": HookType, "plugin_hook": plugin_hook}
}
