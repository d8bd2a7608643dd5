"""`fxcache.compile`: the same cached model, run by a compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backends.inductor import Mode
from ..backends.lowering import lowering
from ..backends.tensorrt import compile_tensorrt
from ..errors import BackendError
from ..runtime.cached_transformer import CachedTransformer
from ..runtime.subjects import require_cached, shared_with


def compile(
    cached: CachedTransformer,
    *,
    backend: str | Callable[..., Any] = "inductor",
    mode: Mode | str | None = "fused",
    dynamic: Any = None,
    **options: Any,
) -> CachedTransformer:
    """Compile a cached model. Nothing is compiled before the first calls.

    Args:
        cached: what `fxcache.transform` returned. Not changed; `cached.compile(...)` does this in place.
        backend: "inductor" or "tensorrt"; or another one of `torch.compile`.
        mode: for inductor, "fused" (the fastest steps), "single" (one graph with the conditional in it),
            "staged" (fast cold start: blocks of a class are compiled once) or "reduce-overhead" (CUDA
            graphs by stage). "default" and "max-autotune" of `torch.compile` are "fused".
        dynamic: whether sizes stay dynamic in the compiled code; None lets the compiler find out. For
            tensorrt also a range: input name -> dimension -> (lowest, highest).
        options: further options of the backend.

    Returns:
        A cached model of its own contexts; compilation happens on the first steps of each kind.

    Raises:
        BackendError: an unknown backend or mode, or one that this machine cannot run; `cached` is no cached
        model. PackageUseError: it is a loaded package. UnknownOptionError: no such option. The first call
        also raises `CompilationError`, where the model's code does not go through the compiler whole.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> cached = fxcache.transform(model, "F1B0_W1M0MC1_T0O1_R9")
        >>> fast = fxcache.compile(cached)
        >>> src = torch.randn(3, 1, 8)
        >>> with torch.no_grad():
        ...     outputs = [fast(src) for step in range(3)]
        ...     torch.testing.assert_close(outputs[0], model(src))
        >>> fast.stats()["default"].cached_steps
        (1,)
        >>> fxcache.compile(cached, mode="fastest")
        Traceback (most recent call last):
        fxcache.errors.BackendError: mode='fastest' of fxcache.compile() must be one of fused, ...
    """
    require_cached(cached, "compile")
    if backend != "tensorrt":
        return cached.lowered(lowering(backend, mode, dynamic, options))
    if mode not in ("fused", None):
        raise BackendError(f"mode={mode!r} of fxcache.compile()", 'be left out for backend="tensorrt"')
    shared = shared_with(cached)
    if shared is not None:
        need = f'be "inductor" for a model whose forward several processes share: {shared}'
        raise BackendError('backend="tensorrt" of fxcache.compile()', need)
    return compile_tensorrt(cached, dynamic=False if dynamic is None else dynamic, **options)
