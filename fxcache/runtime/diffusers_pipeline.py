"""Whole pipelines: cache every denoiser in place of the attribute, and put the originals back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar, overload

from torch import nn

from ..capture.forward_inputs import usual_timestep
from ..capture.root_hooks import forward_beneath
from ..config import CacheConfig, ConfigLike, as_config
from ..errors import ConfigError, NoDenoiserError
from ..ir.module_lists import find_lists
from .cached_transformer import CachedTransformer
from .sealed import Sealed


class Pipeline(Protocol):
    """What is needed of a `diffusers.DiffusionPipeline`."""

    @property
    def components(self) -> dict[str, Any]: ...


P = TypeVar("P", bound=Pipeline)


def is_pipeline(value: object) -> bool:
    """Whether `value` has components rather than being one.

    Example:
        >>> from fxcache.embedded import load_pipeline
        >>> from fxcache.runtime.diffusers_pipeline import is_pipeline
        >>> pipe = load_pipeline()
        >>> is_pipeline(pipe), is_pipeline(pipe.transformer)
        (True, False)
    """
    if isinstance(value, (nn.Module, type)):
        return False
    return isinstance(getattr(value, "components", None), Mapping)


def denoisers(pipe: Pipeline) -> dict[str, nn.Module]:
    """The components that a sampling loop calls step by step, by name; cached ones as they are.

    A denoiser's forward takes a timestep and its modules hold a list of blocks: text encoders, image
    encoders, autoencoders and vocoders take none. A ControlNet takes one, too, but its outputs are
    inputs of the denoiser, which must see them fresh.

    Example:
        >>> from fxcache.embedded import load_pipeline
        >>> from fxcache.runtime.diffusers_pipeline import denoisers
        >>> list(denoisers(load_pipeline()))
        ['transformer']
    """
    return {
        name: module
        for name, module in pipe.components.items()
        if isinstance(module, nn.Module) and "controlnet" not in name and _denoises(module)
    }


def _denoises(module: nn.Module) -> bool:
    if isinstance(module, Sealed):
        return True  # a package: to be refused, not passed over
    original = module.original if isinstance(module, CachedTransformer) else module
    original = getattr(original, "_orig_mod", original)  # compiled: to be refused, not passed over
    # The class's forward, too: another's cache may have put its own in the place, to be refused.
    if usual_timestep(forward_beneath(original)) is None and usual_timestep(type(original).forward) is None:
        return False
    return bool(find_lists(original))


def transform_pipeline(
    pipe: P, config: ConfigLike, cache: Callable[[nn.Module, CacheConfig], CachedTransformer]
) -> P:
    """Replace the denoisers of `pipe` by what `cache` makes of them; returns `pipe`.

    `config` is one for all, or a mapping from component names to one each: those are transformed, the
    others left alone.

    Raises:
        NoDenoiserError: the pipeline has none. ConfigError: a name is not one of its denoisers. And what
        `cache` raises; then nothing is replaced.

    Example:
        >>> import fxcache
        >>> from fxcache.embedded import load_pipeline
        >>> from fxcache.runtime.diffusers_pipeline import transform_pipeline
        >>> pipe = transform_pipeline(load_pipeline(), {"transformer": "F1B0_W4M0MC3_T1O1_R0.12"},
        ...                           lambda module, config: fxcache.transform(module, config))
        >>> pipe.transformer
        CachedTransformer(FluxTransformer2DModel, F1B0_W4M0MC3_T1O1_R0.12)
    """
    found = denoisers(pipe)
    if not found:
        raise NoDenoiserError(type(pipe).__name__, tuple(pipe.components))
    made = {name: cache(found[name], own) for name, own in _configs(pipe, found, config).items()}
    for name, cached in made.items():
        setattr(pipe, name, cached)
    return pipe


def _configs(pipe: Pipeline, found: Mapping[str, nn.Module], config: ConfigLike) -> dict[str, CacheConfig]:
    if isinstance(config, Mapping) and any(name in pipe.components for name in config):
        for name in config:
            if name not in found:
                need = f"name only denoisers of the pipeline: {', '.join(found)}"
                raise ConfigError("config", name, need, of="fxcache.transform()")
        return {name: as_config(own) for name, own in config.items()}
    one = as_config(config)
    return {name: one for name in found}


@overload
def restore(pipe: CachedTransformer) -> nn.Module: ...


@overload
def restore(pipe: P) -> P: ...


def restore(pipe: Any) -> Any:
    """Put the original denoisers back in `pipe`, and return it. Does nothing where none is cached.

    Of a cached model, returns the original.

    Example:
        >>> import fxcache
        >>> from fxcache.embedded import load_pipeline
        >>> pipe = fxcache.transform(load_pipeline(), "F1B0_W4M0MC3_T1O1_R0.12")
        >>> type(fxcache.restore(pipe).transformer).__name__
        'FluxTransformer2DModel'
        >>> cached = fxcache.transform(pipe.transformer, "F1B0_W4M0MC3_T1O1_R0.12")
        >>> fxcache.restore(cached) is pipe.transformer
        True
    """
    if isinstance(pipe, CachedTransformer):
        return pipe.original
    for name, component in pipe.components.items():
        if isinstance(component, CachedTransformer):
            setattr(pipe, name, component.original)
    return pipe
