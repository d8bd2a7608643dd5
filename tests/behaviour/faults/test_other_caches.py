"""S18: other people's caches are recognized in either order and refused with the way out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    MagCacheConfig,
    PyramidAttentionBroadcastConfig,
    TaylorSeerCacheConfig,
)
from diffusers.hooks import (
    HookRegistry,
    ModelHook,
    apply_faster_cache,
    apply_first_block_cache,
    apply_mag_cache,
    apply_pyramid_attention_broadcast,
    apply_taylorseer_cache,
)
from torch import Tensor, nn

import fxcache
from fxcache.errors import AlreadyCachedError
from tests.behaviour.pipelines.build import FLUX
from tests.behaviour.zoo import find
from tests.sweep import sweep

from .base import EAGER, NEVER, Base, build, sample

APPLY: dict[str, tuple[Callable[[Any, Any], Any], Callable[[], Any]]] = {
    "FirstBlockCache": (apply_first_block_cache, lambda: FirstBlockCacheConfig(threshold=0.1)),
    "TaylorSeer": (apply_taylorseer_cache, lambda: TaylorSeerCacheConfig(cache_interval=2)),
    "MagCache": (apply_mag_cache, lambda: MagCacheConfig(num_inference_steps=4, mag_ratios=torch.ones(4))),
    "PAB": (
        apply_pyramid_attention_broadcast,
        lambda: PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
        ),
    ),
    "FasterCache": (
        apply_faster_cache,
        lambda: FasterCacheConfig(
            spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
        ),
    ),
}


def flux() -> tuple[Any, dict[str, Any]]:
    model, inputs = find("FluxTransformer2DModel").build()
    return model, {**inputs, "return_dict": False}


def unhook(model: nn.Module) -> None:
    for module in model.modules():
        registry = getattr(module, "_diffusers_hook", None)
        for name in list(registry.hooks) if registry is not None else ():
            registry.remove_hook(name, recurse=False)


def works(cached: Any, inputs: dict[str, Any]) -> None:
    with torch.no_grad():
        assert torch.equal(cached(**inputs)[0], cached.original(**inputs)[0])


@pytest.mark.parametrize("kind", sweep(APPLY, ("FirstBlockCache",)))
def test_s18_diffusers_caches_before(kind: str) -> None:
    apply, config = APPLY[kind]
    model, inputs = flux()
    apply(model, config())
    for policy in ("raise", "passthrough"):
        with pytest.raises(AlreadyCachedError, match=r"two caches.*Hook.*remove_hook"):
            fxcache.transform(model, NEVER, on_unsupported=policy)  # type: ignore[call-overload]
    unhook(model)
    works(fxcache.transform(model, NEVER), inputs)


@pytest.mark.parametrize("on", sweep(("cached", "original"), ("original",)))
@pytest.mark.parametrize("called", sweep((False, True), (True,), ids=("at once", "in use").__getitem__))
@pytest.mark.parametrize("kind", sweep(APPLY, ("FirstBlockCache",)))
def test_s18_diffusers_caches_after(kind: str, on: str, called: bool) -> None:
    apply, config = APPLY[kind]
    model, inputs = flux()
    cached = fxcache.transform(model, NEVER)
    if called:
        works(cached, inputs)
    apply(cached if on == "cached" else cached.original, config())
    for _ in range(2):
        with pytest.raises(AlreadyCachedError, match="two caches"), torch.no_grad():
            cached(**inputs)
    unhook(cached)
    works(cached, inputs)


@pytest.mark.parametrize("kind", sweep(APPLY, ("PAB",)))
def test_s18_enable_cache_on_the_original(kind: str) -> None:
    model, inputs = flux()
    cached = fxcache.transform(model, NEVER)
    works(cached, inputs)
    cached.original.enable_cache(APPLY[kind][1]())
    with pytest.raises(AlreadyCachedError, match="disable_cache"), torch.no_grad():
        cached(**inputs)
    cached.disable_cache()
    works(cached, inputs)


def test_s18_a_stateful_hook_of_any_kind_deep_inside() -> None:
    class Counting(ModelHook):
        _is_stateful = True

        def reset_state(self, module: nn.Module) -> None: ...

    model = build(Base)
    cached = fxcache.transform(model, NEVER)
    registry = HookRegistry.check_if_exists_or_initialize(model.blocks[2].mix)
    registry.register_hook(ModelHook(), "harmless")
    with torch.no_grad():
        cached(*sample()[0])
        registry.register_hook(Counting(), "counting")
        with pytest.raises(AlreadyCachedError, match=r"Counting on 'blocks\.2\.mix'"):
            cached(*sample()[1])
        registry.remove_hook("counting")
        assert torch.equal(cached(*sample()[1]), model(*sample()[1]))


def test_s18_a_cached_model_inside_another() -> None:
    class Outer(Base):
        def __init__(self) -> None:
            super().__init__()
            self.inner = fxcache.transform(build(Base), NEVER)

    with pytest.raises(AlreadyCachedError, match="another one of fxcache on 'inner'"):
        fxcache.transform(Outer(), NEVER)
    cached = fxcache.transform(build(Base), NEVER)
    cached.inner = fxcache.transform(build(Base), NEVER)
    with pytest.raises(AlreadyCachedError), torch.no_grad():
        cached(*sample()[0])


# ---------------------------------------------------------------------- patched forwards


def doubled(self: Any, x: Tensor, timestep: Tensor) -> Tensor:
    for block in self.blocks:
        x = block(x)
    return x * 2


def test_s18_a_forward_patched_before_is_captured_as_it_is() -> None:
    model = build(Base)
    model.forward = MethodType(doubled, model)
    cached = fxcache.transform(model, EAGER)
    calls = sample()
    with torch.no_grad():
        assert torch.equal(cached(*calls[0]), doubled(model, *calls[0]))
        cached(*calls[1])
    assert cached.stats()["default"].hits == (False, True)


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("bound", ["method", "get", "partial", "closure"])
def test_s18_a_forward_patched_after_is_cached_in_the_others_place(bound: str, used: bool) -> None:
    model = build(Base)
    cached = fxcache.transform(model, EAGER)
    calls = sample()
    with torch.no_grad():
        if used:
            cached(*calls[0])
        ways: dict[str, Callable[..., Any]] = {
            "method": MethodType(doubled, cached),
            "get": doubled.__get__(cached),
            "partial": functools.partial(doubled, cached),
            "closure": lambda x, timestep: doubled(cached, x, timestep),
        }
        cached.forward = ways[bound]
        cached.reset()
        assert torch.equal(cached(*calls[0]), doubled(model, *calls[0]))
        cached(*calls[1])
        assert cached.stats()["default"].hits == (False, True)
        del cached.forward
        cached.reset()
        assert torch.equal(cached(*calls[0]), Base.forward(model, *calls[0]))


@pytest.mark.parametrize("how", ["closure", "wraps", "partial", "default"])
def test_s18_a_forward_that_goes_around_ours(how: str) -> None:
    model = build(Base)
    cached = fxcache.transform(model, EAGER)
    ours = cached.forward

    def around(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs) + 1

    @functools.wraps(ours)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return around(*args, **kwargs)

    ways: dict[str, Callable[..., Any]] = {
        "closure": around,
        "wraps": wrapped,
        "partial": functools.partial(lambda inner, *args: inner(*args) + 1, ours),
        "default": lambda x, timestep, inner=ours: inner(x, timestep) + 1,
    }
    cached.forward = ways[how]
    calls = sample()
    with torch.no_grad():
        assert torch.equal(cached(*calls[0]), model(*calls[0]) + 1)
        cached(*calls[1])
    assert cached.stats()["default"].hits == (False, True)
    cached.forward = ours
    with torch.no_grad():
        cached.reset()
        assert torch.equal(cached(*calls[0]), model(*calls[0]))


# ---------------------------------------------------------------------- cache-dit


def enable(target: Any) -> None:
    cache_dit = pytest.importorskip("cache_dit")
    cache_dit.enable_cache(target, cache_config=cache_dit.DBCacheConfig(Fn_compute_blocks=1))


@pytest.mark.parametrize("as_adapter", [False, True])
def test_s18_cache_dit_before(as_adapter: bool) -> None:
    cache_dit = pytest.importorskip("cache_dit")
    pipe = FLUX.load()
    plain = FLUX.run(pipe)
    enable(pipe)
    with pytest.raises(AlreadyCachedError, match=r"cache_dit\.disable_cache"):
        fxcache.transform(pipe.transformer, NEVER)
    with pytest.raises(AlreadyCachedError, match=r"cache_dit\.disable_cache"):
        fxcache.transform(pipe, NEVER)
    cache_dit.disable_cache(pipe)
    fxcache.transform(pipe, NEVER)
    assert torch.equal(FLUX.run(pipe), plain)


@pytest.mark.parametrize("used", [False, True])
def test_s18_cache_dit_after(used: bool) -> None:
    cache_dit = pytest.importorskip("cache_dit")
    pipe = FLUX.load()
    plain = FLUX.run(pipe)
    fxcache.transform(pipe, NEVER)
    if used:
        assert torch.equal(FLUX.run(pipe), plain)
    enable(pipe)
    with pytest.raises(AlreadyCachedError, match=r"cache_dit\.disable_cache"):
        FLUX.run(pipe)
    cache_dit.disable_cache(pipe)
    assert torch.equal(FLUX.run(pipe), plain)
