"""`fxcache.compile`: the same cached model, run by a compiler."""

from __future__ import annotations

from typing import Any

from .backends.inductor import Inductor, Mode
from .cached import CachedTransformer
from .errors import BackendError


def compile(
    cached: CachedTransformer,
    *,
    backend: str = "inductor",
    mode: Mode = "fused",
    dynamic: Any = None,
    **options: Any,
) -> CachedTransformer:
    """Compile a cached model.

    Args:
        cached: what `fxcache.transform` gave. Not changed.
        backend: "inductor" or "tensorrt".
        mode: for inductor, "fused" (the fastest steps), "single" (one graph with the conditional in it),
            "staged" (fast cold start: blocks of a class are compiled once) or "reduce-overhead" (CUDA
            graphs by stage).
        dynamic: whether sizes stay open in the compiled code; None lets the compiler find out. For
            tensorrt also a range: input name -> dimension -> (lowest, highest).
        options: further options of the backend.

    Returns:
        A cached model of its own contexts; compilation happens on the first steps of each kind.

    Raises:
        BackendError: an unknown backend or mode, or one that this machine cannot run. The first call also
        raises `CompilationError`, where the model's code does not go through the compiler whole.
    """
    if not isinstance(cached, CachedTransformer):
        raise BackendError(type(cached).__name__, "be given what fxcache.transform() returns")
    if backend == "inductor":
        return cached.lowered(Inductor(mode, dynamic, options))
    if backend == "tensorrt":
        from .backends.tensorrt import compile_tensorrt

        if mode != "fused":
            raise BackendError(f"mode={mode!r}", 'be left out for backend="tensorrt"')
        return compile_tensorrt(cached, dynamic=False if dynamic is None else dynamic, **options)
    raise BackendError(f"backend={backend!r}", 'be "inductor" or "tensorrt"')
