"""`hooked`: hooks of the model itself run around its graph as they run around its forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from diffusers.hooks import HookRegistry
from diffusers.hooks import ModelHook as DiffusersHook
from torch import Tensor, nn

from fxcache.capture.root_hooks import forward_beneath, has_root_hooks, hooked, unhook
from fxcache.errors import RootHookError


class Model(nn.Module):
    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x * scale


class Adds(ModelHook):
    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (args[0] + 1, *args[1:]), kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        return output * 3


class Doubles(DiffusersHook):
    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (args[0] * 2, *args[1:]), kwargs

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        return output + 5


class Replaces(DiffusersHook):
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return args[0]


def accelerates(model: nn.Module) -> None:
    add_hook_to_module(model, Adds())


def diffusers(model: nn.Module) -> None:
    registry = HookRegistry.check_if_exists_or_initialize(model)
    registry.register_hook(Doubles(), f"doubles {len(registry.hooks)}")


def twice(model: nn.Module) -> None:
    diffusers(model)
    diffusers(model)


def between(model: nn.Module) -> None:
    diffusers(model)
    accelerates(model)
    diffusers(model)


def before(model: nn.Module) -> None:
    model.register_forward_pre_hook(lambda m, args: args[0] + 10)


def before_keywords(model: nn.Module) -> None:
    model.register_forward_pre_hook(
        lambda m, args, kwargs: (args, {"scale": kwargs.get("scale", 1.0) * 7}), with_kwargs=True
    )


def after(model: nn.Module) -> None:
    model.register_forward_hook(lambda m, args, result: result - 4)


def after_keywords(model: nn.Module) -> None:
    model.register_forward_hook(lambda m, args, kwargs, result: result * len(kwargs), with_kwargs=True)


def looks(model: nn.Module) -> None:
    model.register_forward_hook(lambda m, args, result: None)


Hang = Callable[[nn.Module], None]
ALL: tuple[Hang, ...] = (
    accelerates, diffusers, twice, before, before_keywords, after, after_keywords, looks,
)  # fmt: skip


@pytest.mark.parametrize("second", ALL)
@pytest.mark.parametrize("first", [*ALL, between])
def test_the_order_is_the_models(first: Hang, second: Hang) -> None:
    if first is between and second is accelerates:
        pytest.skip("accelerate puts its new hook in its old one's place, and drops what is around that")
    model = Model()
    assert not has_root_hooks(model)
    first(model)
    second(model)
    assert has_root_hooks(model)
    x = torch.arange(3.0)
    run = hooked(model, Model.forward.__get__(model))
    assert torch.equal(run(x, scale=2.0), model(x, scale=2.0))
    assert torch.equal(forward_beneath(model)(x, scale=2.0), x * 2.0)


def test_a_hook_that_replaces_the_forward_is_refused() -> None:
    model = Model()
    HookRegistry.check_if_exists_or_initialize(model).register_hook(Replaces(), "mine")
    with pytest.raises(RootHookError, match="mine"):
        hooked(model, model.forward)


def test_unhook_leaves_the_models_own_forward() -> None:
    model = Model()
    accelerates(model)
    unhook(model)
    assert not has_root_hooks(model)
    x = torch.arange(3.0)
    assert torch.equal(model(x), x)
    remove_hook_from_module(model)
    assert torch.equal(model(x), x)
