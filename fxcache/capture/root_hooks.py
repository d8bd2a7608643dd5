"""Hooks on the model itself, run around its captured forward as a call of the model would run them.

A captured graph takes the place of the model's forward, so whatever others hung on the model (offloading
by accelerate, diffusers' hook registry, PyTorch's forward hooks) must be run by whoever runs the graph.
Hooks on modules inside need nothing: the graph calls those modules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import RootHookError

FORWARD = "forward"
Forward = Callable[..., Any]
Result = TypeVar("Result")


def has_root_hooks(model: nn.Module) -> bool:
    """Whether anything is hung on `model` itself. Quick: asked on every call."""
    own = model.__dict__
    return bool(
        model._forward_pre_hooks or model._forward_hooks or "_hf_hook" in own or "_diffusers_hook" in own
    )


def inner_hook(model: nn.Module) -> str | None:
    """What is hung on the forward of `model` itself, so that a method which calls it runs that, too."""
    own = model.__dict__
    return "accelerate's" if "_hf_hook" in own else "diffusers'" if "_diffusers_hook" in own else None


def hooked(model: nn.Module, forward: Forward) -> Forward:
    """`forward` with the hooks of `model` around it, in the order in which the model runs them.

    Raises:
        RootHookError: a hook replaces the forward rather than going around it.
    """
    registry: Any = model.__dict__.get("_diffusers_hook")
    wrappers = zip(registry._hook_order, registry._fn_refs, strict=True) if registry is not None else ()
    inner = False
    for name, wrapper in wrappers:  # the first registered is the innermost
        if not inner and _wraps_accelerates(model, wrapper):
            forward, inner = _with_accelerate_hook(model, forward), True
        forward = _with_diffusers_hook(model, name, registry.hooks[name], forward)
    if not inner:
        forward = _with_accelerate_hook(model, forward)
    return _with_torch_hooks(model, forward)


def beneath(model: nn.Module, use: Callable[..., Result], args: Any, kwargs: Any) -> Result:
    """What `use` gives of a call's arguments as they reach the forward: the hooks before it run, those
    behind it do not.

    Raises what `hooked`, the hooks and `use` do.
    """
    found: list[Result] = []

    def reached(*args: Any, **kwargs: Any) -> None:
        found.append(use(*args, **kwargs))
        raise _Reached

    with contextlib.suppress(_Reached):
        hooked(model, reached)(*args, **kwargs)
    return found[0]


class _Reached(Exception):
    """The forward would run now."""


def forward_beneath(model: nn.Module, method: str = FORWARD) -> Forward:
    """The forward that the hooks on `model` go around: its class's, or one set on the instance.

    method: another method to call in its place, around which no hooks go.
    """
    if method != FORWARD:
        return getattr(model, method)  # type: ignore[no-any-return]
    own = model.__dict__
    registry: Any = own.get("_diffusers_hook")
    accelerates: Any = own.get("_old_forward")
    if registry is not None and registry._fn_refs:
        first = registry._fn_refs[0]
        return accelerates if _wraps_accelerates(model, first) else first.original_forward or first.forward
    return accelerates or model.forward


def unhook(model: nn.Module) -> None:
    """Take accelerate's hook off `model` itself, if it has one."""
    own = model.__dict__
    own.pop("_hf_hook", None)
    if "_old_forward" in own:
        model.forward = own.pop("_old_forward")


def _with_torch_hooks(model: nn.Module, forward: Forward) -> Forward:
    def run(*args: Any, **kwargs: Any) -> Any:
        for number, hook in list(model._forward_pre_hooks.items()):
            if number in model._forward_pre_hooks_with_kwargs:
                changed = hook(model, args, kwargs)
                args, kwargs = (args, kwargs) if changed is None else changed
            else:
                changed = hook(model, args)
                if changed is not None:
                    args = changed if isinstance(changed, tuple) else (changed,)
        result = forward(*args, **kwargs)
        for number, hook in list(model._forward_hooks.items()):
            if number in model._forward_hooks_with_kwargs:
                changed = hook(model, args, kwargs, result)
            else:
                changed = hook(model, args, result)
            result = result if changed is None else changed
        return result

    return run


def _with_accelerate_hook(model: nn.Module, forward: Forward) -> Forward:
    hook = model.__dict__.get("_hf_hook")
    if hook is None:
        return forward

    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = hook.pre_forward(model, *args, **kwargs)
        if hook.no_grad:
            with torch.no_grad():
                result = forward(*args, **kwargs)
        else:
            result = forward(*args, **kwargs)
        return hook.post_forward(model, result)

    return run


def _with_diffusers_hook(model: nn.Module, name: str, hook: Any, forward: Forward) -> Forward:
    if hasattr(hook, "new_forward"):
        raise RootHookError(type(model).__name__, name)
    return _around(model, hook, forward)


def _wraps_accelerates(model: nn.Module, wrapper: Any) -> bool:
    """Whether one of diffusers' wrappers went around accelerate's, which hides the forward that it found."""
    accelerates = model.__dict__.get("_old_forward")
    beneath = wrapper.original_forward or wrapper.forward
    return accelerates is not None and getattr(beneath, "__wrapped__", None) == accelerates


def _around(model: nn.Module, hook: Any, forward: Forward) -> Forward:
    def run(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = hook.pre_forward(model, *args, **kwargs)
        return hook.post_forward(model, forward(*args, **kwargs))

    return run
