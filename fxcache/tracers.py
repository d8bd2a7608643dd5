"""Tracers of others around a cached model: its decisions are made at run time, which no trace can hold."""

from __future__ import annotations

import torch
from torch.fx._symbolic_trace import is_fx_symbolic_tracing
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from .errors import TracingError
from .tracelock import LOCK

COMPILE = "fxcache.compile(cached, ...), or cached.compile(...)"
EXPORT = "fxcache.export(cached, path, example_inputs)"
REASON = f"a cached model decides at run time: use {COMPILE}"  # what a graph break says


def refuse_tracing() -> None:
    """Raises `TracingError` while `torch.export`, `torch.jit.trace` or `torch.fx` trace. Quick."""
    if torch.compiler.is_exporting() and not LOCK.held_elsewhere():
        raise TracingError("torch.export", EXPORT)
    if torch._C._is_tracing():
        raise TracingError("torch.jit.trace", EXPORT)
    if (is_fx_symbolic_tracing() and not LOCK.held_elsewhere()) or (
        torch._C._len_torch_dispatch_stack() and get_proxy_mode() is not None
    ):
        raise TracingError("torch.fx", "cached.graph, the graph with the cache in it")


def compiler_looks() -> bool:
    """Whether `torch.compile` traces in this thread. Its public question is for the code that it traces."""
    return torch._guards.TracingContext.try_get() is not None


def refuse_compilation(attribute: str) -> None:
    """Raises `TracingError` where `torch.compile(cached)` or `torch.jit.script(cached)` ask for `attribute`.

    There is no public way to hear of the first. It asks a module for the hook by which lazy modules make
    themselves ready, once, when it wraps it; a trace that goes on asks, too, and may.
    """
    if attribute == "__prepare_scriptable__":
        raise TracingError("torch.jit.script", EXPORT)
    if attribute == "_initialize_hook" and not compiler_looks():
        raise TracingError("torch.compile", COMPILE)
