"""Which compiler runs the graphs: the lowering that a backend's and a mode's names stand for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

from ..errors import BackendError
from ..spelling import require_known
from ..torch_private import inductor_mode
from .inductor import Inductor, Mode
from .recompilation import HAS_LIMIT

# Modes of `torch.compile` by other names. The decision is on the host: CUDA graphs are a mode of their own.
TORCHS = ("default", "max-autotune", "max-autotune-no-cudagraphs")


def lowering(
    backend: str | Callable[..., Any], mode: Mode | str | None, dynamic: Any, options: dict[str, Any]
) -> Inductor:
    """The lowering for a mode, ours or one of `torch.compile`; `options` are further arguments of that.

    Raises `BackendError`, `UnknownOptionError`.
    """
    if backend != "inductor":
        options = {**options, "backend": torch_backend(backend)}
    if "recompile_limit" in options and not HAS_LIMIT:
        raise BackendError(
            f"recompile_limit={options['recompile_limit']!r} of fxcache.compile()",
            "be left out: it needs torch 2.12 or later. Or set torch._dynamo.config.recompile_limit",
        )
    own = {"backend", "mode", "dynamic"}
    known = [n for n in inspect.signature(torch.compile).parameters if n not in {"model", *own}]
    require_known("fxcache.compile()", {n: v for n, v in options.items() if n not in own}, (*known, *own))
    if mode is None or mode == "default":
        return Inductor("fused", dynamic, options)
    if mode in TORCHS:
        tuned = inductor_mode("max-autotune-no-cudagraphs", dynamic)
        return Inductor("fused", dynamic, {**options, "options": {**tuned, **(options.get("options") or {})}})
    return Inductor(mode, dynamic, options)  # type: ignore[arg-type]


def torch_backend(backend: str | Callable[..., Any]) -> str | Callable[..., Any]:
    """`backend`, if `torch.compile` has it. Raises `BackendError`."""
    if callable(backend) or backend in torch.compiler.list_backends(exclude_tags=None):
        return backend
    raise BackendError(f"backend={backend!r} of fxcache.compile()", 'be "inductor" or "tensorrt"')
