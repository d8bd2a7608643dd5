"""Tracers of others around a cached model: its decisions are made at run time, which no trace can hold."""

from __future__ import annotations

import torch

from ..capture.trace_lock import LOCK
from ..errors import TracingError
from ..torch_private import TracingContext, get_proxy_mode, has_dispatch_modes, symbolic_trace

COMPILE = "fxcache.compile(cached, ...), or cached.compile(...)"
EXPORT = "fxcache.export(cached, path, example_inputs)"
GRAPH = "cached.graph, the graph with the cache in it"
REASON = f"a cached model decides at run time: use {COMPILE}"  # what a graph break says


def traced_by() -> str | None:
    """Who traces in this thread, of `torch.export`, `torch.jit.trace` and `torch.fx`. Quick."""
    if torch.compiler.is_exporting() and not LOCK.held_elsewhere():
        return "torch.export"
    if torch.jit.is_tracing():
        return "torch.jit.trace"
    if (symbolic_trace.is_fx_symbolic_tracing() and not LOCK.held_elsewhere()) or (
        has_dispatch_modes() and get_proxy_mode() is not None
    ):
        return "torch.fx"
    return None


def refuse_tracing() -> None:
    """Raises `TracingError` while a cached model is traced."""
    by = traced_by()
    if by is not None:
        raise TracingError(by, GRAPH if by == "torch.fx" else EXPORT)


def compiler_looks() -> bool:
    """Whether `torch.compile` traces in this thread. Its public question is for the code that it traces."""
    return TracingContext.try_get() is not None


def compiled_by(attribute: str) -> str | None:
    """Which of `torch.compile(module)` and `torch.jit.script(module)` asks a module for `attribute`.

    There is no public way to hear of the first. It asks a module for the hook by which lazy modules make
    themselves ready, once, when it wraps it; a trace that goes on asks, too, and may.
    """
    if attribute == "__prepare_scriptable__":
        return "torch.jit.script"
    return "torch.compile" if attribute == "_initialize_hook" and not compiler_looks() else None


def refuse_compilation(attribute: str) -> None:
    """Raises `TracingError` where a compiler asks a cached model for `attribute`."""
    by = compiled_by(attribute)
    if by is not None:
        raise TracingError(by, COMPILE if by == "torch.compile" else EXPORT)
