"""Other people's caches on a model: two caches would each skip blocks that the other counts on.

Found by what they leave: hooks of diffusers that keep state from call to call, on any module; a flag on
the model (`is_cache_enabled`, or `_is_cached` as ParaAttention and cache-dit set it); another cached model.
"""

from __future__ import annotations

from torch import nn

from ..errors import AlreadyCachedError
from .module_proxy import ModuleProxy


class OtherCaches:
    """Watches a model for caches that come after this one. Quick: asked on every call."""

    def __init__(self, model: nn.Module) -> None:
        """Raises `AlreadyCachedError` where `model` has a cache."""
        self._model = model
        self._tables: list[dict[str, object]] = []
        self._size = -1
        self.refuse()

    def refuse(self) -> None:
        """Raises `AlreadyCachedError` where the model has a cache now."""
        # Whoever hangs something on a module adds to its attributes or to the hooks there.
        if sum(map(len, self._tables)) != self._size:
            refuse_other_caches(self._model)
            self._tables = _tables(self._model)
            self._size = sum(map(len, self._tables))


def refuse_other_caches(model: nn.Module) -> None:
    """Raises `AlreadyCachedError` where `model`, or a module in it, has a cache."""
    name = type(model).__name__
    if getattr(model, "is_cache_enabled", False):
        raise AlreadyCachedError(name, "one of diffusers' (enable_cache)")
    if getattr(model, "_is_cached", False):
        raise AlreadyCachedError(name, "one that set _is_cached (cache-dit, ParaAttention)")
    for path, module in model.named_modules():
        where = f" on '{path}'" if path else ""
        if isinstance(module, ModuleProxy):
            raise AlreadyCachedError(name, f"another one of fxcache{where}")
        registry = module.__dict__.get("_diffusers_hook")
        for hook in registry.hooks.values() if registry is not None else ():
            if hook._is_stateful:
                raise AlreadyCachedError(name, f"one of diffusers' (the hook {type(hook).__name__}{where})")


def _tables(model: nn.Module) -> list[dict[str, object]]:
    tables: list[dict[str, object]] = [model._modules]  # type: ignore[list-item]
    for module in model.modules():
        own = module.__dict__
        tables.append(own)
        registry = own.get("_diffusers_hook")
        if registry is not None:
            tables.append(registry.hooks)
    return tables
