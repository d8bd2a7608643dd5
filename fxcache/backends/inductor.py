"""TorchInductor: one graph with the conditional inside, or stages with the decision on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch

from ..errors import BackendError
from ..ir import Program, Stage
from ..joining import Runner, host_path, host_runner
from ..variants import Lowering

Mode = Literal["fused", "single", "staged", "reduce-overhead"]
MODES: tuple[Mode, ...] = ("fused", "single", "staged", "reduce-overhead")


def inductor(mode: Mode = "fused", dynamic: bool | None = None, **options: Any) -> Lowering:
    """The lowering for a mode.

    fused: front, hit (skip and back) and miss (compute and back) compiled as three whole graphs.
    single: one graph, the conditional inside it.
    staged: as fused, but a miss runs its blocks one by one, each class compiled once.
    reduce-overhead: as fused, each stage recorded as a CUDA graph.
    """
    if mode not in MODES:
        raise BackendError(f"mode={mode!r}", f"be one of {', '.join(MODES)}")
    if mode == "reduce-overhead" and not torch.cuda.is_available():
        raise BackendError('mode="reduce-overhead"', "have a CUDA device: it records CUDA graphs")
    lowerings: dict[Mode, Callable[..., Runner]] = {
        "fused": _fused,
        "single": _single,
        "staged": _staged,
        "reduce-overhead": _recorded,
    }
    chosen = lowerings[mode]
    return lambda program: chosen(program, dynamic, options)


def _compile(function: Callable[..., Any], dynamic: bool | None, options: dict[str, Any]) -> Runner:
    return torch.compile(function, fullgraph=True, dynamic=dynamic, **options)


def _single(program: Program, dynamic: bool | None, options: dict[str, Any]) -> Runner:
    assert program.graph is not None
    return _compile(program.graph, dynamic, options)


def _fused(program: Program, dynamic: bool | None, options: dict[str, Any]) -> Runner:
    def compiled(stage: Stage) -> Runner:
        return _compile(stage.graph, dynamic, options)

    return host_runner(program, host_path(program), compiled)
