"""Settings of the process and thread that operators obey without being told.

A forward may open `torch.autocast`, `sdpa_kernel`, a default dtype and the like around some of its calls.
What it computes itself is traced together with what these do to it; a leaf stays a call, so that what was
in force around it must be noted and entered again whenever the graph runs.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from ..devices import autocast_kinds
from ..torch_private import (
    DeviceContext,
    any_autocast,
    attention_kernels,
    backend_precisions,
    deterministic,
    dispatch_modes,
    function_modes,
    has_function_modes,
    is_of_torch,
    library_kernels,
    matmul_precision,
    set_attention_kernels,
    set_backend_precisions,
    set_deterministic,
    set_library_kernels,
    set_matmul_precision,
    without_dispatch_modes,
)
from .refused_trace import RefusedTrace

Ambient = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """A setting and the value that it has while a leaf is called."""

    name: str
    value: Any

    def entered(self) -> AbstractContextManager[Any]:
        """The setting in force, and afterwards what was before."""
        if self.name.startswith("autocast "):
            enabled, dtype = self.value
            return torch.autocast(self.name.removeprefix("autocast "), dtype, enabled)
        if self.name == "grad":
            return torch.set_grad_enabled(self.value)
        if self.name == "inference":
            return torch.inference_mode(self.value)
        if self.name == "device":
            return torch.device(self.value) if self.value is not None else contextlib.nullcontext()
        return _holding(self.name, self.value)


def _get_attention() -> Any:
    """The backend of diffusers' attention, where that is in use."""
    dispatch = sys.modules.get("diffusers.models.attention_dispatch")
    return dispatch._AttentionBackendRegistry._active_backend if dispatch is not None else None


def _set_attention(backend: Any) -> None:
    dispatch: Any = sys.modules["diffusers.models.attention_dispatch"]
    dispatch._AttentionBackendRegistry._active_backend = backend


# Every setting that is one value to get and to set.
SWITCHES: Mapping[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "precision": (matmul_precision, set_matmul_precision),
    "precisions": (backend_precisions, set_backend_precisions),
    "deterministic": (deterministic, set_deterministic),
    "attention kernels": (attention_kernels, set_attention_kernels),
    "kernels": (library_kernels, set_library_kernels),
    "attention backend": (_get_attention, _set_attention),
}
NUMERIC = ("precision", "precisions", "deterministic", "kernels")  # what a product of matrices obeys


@contextlib.contextmanager
def _holding(name: str, value: Any) -> Iterator[None]:
    get, put = SWITCHES[name]
    before = get()
    put(value)
    try:
        yield
    finally:
        put(before)


def ambient_key() -> tuple[Any, ...]:
    """What of the ambient a capture depends on; this is asked on every call."""
    key = (
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        matmul_precision(),
        attention_kernels(),
        deterministic(),
        library_kernels(),
        autocast() if any_autocast() else (),
        _get_attention(),
    )
    if has_function_modes():
        modes = function_modes()
        return (*key, *(m.device if isinstance(m, DeviceContext) else m for m in modes))
    return key


def autocast() -> tuple[tuple[str, torch.dtype], ...]:
    """Whether each kind of device casts, and to what, for those that do."""
    return tuple((k, torch.get_autocast_dtype(k)) for k in autocast_kinds() if torch.is_autocast_enabled(k))


def snapshot() -> dict[str, Any]:
    """Every setting's value, by name."""
    found: dict[str, Any] = {name: get() for name, (get, _) in SWITCHES.items()}
    for kind in autocast_kinds():
        enabled = torch.is_autocast_enabled(kind)
        found[f"autocast {kind}"] = (enabled, torch.get_autocast_dtype(kind) if enabled else None)
    found["grad"] = torch.is_grad_enabled()
    found["inference"] = torch.is_inference_mode_enabled()
    modes = function_modes()
    devices = [m.device for m in modes if isinstance(m, DeviceContext)]
    found["device"] = devices[-1] if devices else None
    others = [m for m in modes if not isinstance(m, DeviceContext)]
    found["modes"] = (*others, *dispatch_modes())
    return found


def put_back(before: Ambient) -> None:
    """Set again what a forward set and left behind."""
    for name, (get, put) in SWITCHES.items():
        if get() != before[name]:
            put(before[name])
    for kind in autocast_kinds():
        enabled = before[f"autocast {kind}"][0]
        if torch.is_autocast_enabled(kind) != enabled:
            torch.set_autocast_enabled(kind, enabled)


def changes(before: Ambient, now: Ambient) -> tuple[Change, ...]:
    """What to enter around a call so that `now` is in force where `before` is.

    Raises `RefusedTrace` for what cannot be entered from outside.
    """
    found = [Change(name, value) for name, value in now.items() if value != before[name]]
    names = {c.name for c in found}
    for change in found:
        if change.name == "modes":
            opened = [m for m in now["modes"] if all(m is not b for b in before["modes"])]
            kind = type(opened[0]).__name__ if opened else "mode"
            raise RefusedTrace(
                f"its forward calls modules under a {kind} (a torch function or dispatch mode)"
            )
        if change.name == "device" and change.value is None:
            raise RefusedTrace("its forward leaves the default device that it is called under")
    return tuple(c for c in found if not (c.name == "precisions" and "precision" in names))


@contextlib.contextmanager
def entered(changed: tuple[Change, ...]) -> Iterator[None]:
    """All of `changed` in force."""
    with contextlib.ExitStack() as stack:
        for change in changed:
            stack.enter_context(change.entered())
        yield


@contextlib.contextmanager
def without_observers() -> Iterator[None]:
    """While a forward is traced: dispatch modes around the call see the operators when the graph runs.

    Such as torch's FLOP counter, which knows nothing of the operator that stands for a leaf.
    """
    modes = dispatch_modes()
    theirs = bool(modes) and not any(map(is_of_torch, modes))
    with without_dispatch_modes() if theirs else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def without_autocast_cache() -> Iterator[None]:
    """While a forward is traced: a weight that was cast on fake tensors must not serve a later call."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)
        torch.clear_autocast_cache()  # a region opened in the forward may have turned it on


def with_settings(run: Callable[..., Any], changed: tuple[Change, ...]) -> Callable[..., Any]:
    """`run`, with `changed` in force while it runs."""
    if not changed:
        return run

    def running(*values: Any) -> Any:
        with entered(changed):
            return run(*values)

    running.__wrapped__ = run  # type: ignore[attr-defined]  # for `inspect.unwrap`
    return running
