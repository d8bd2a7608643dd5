"""The compiler: Dynamo, Inductor and AOTInductor. Much of it is documented, under private modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

# ruff: isort: off
from torch._dynamo import OptimizedModule  # what `torch.compile(module)` returns
from torch._dynamo import mark_static, mark_static_address, maybe_mark_dynamic
from torch._dynamo.exc import (
    BackendCompilerFailed,
    FailOnRecompileLimitHit,
    TorchRuntimeError,
    Unsupported,
    UserError,
)
from torch._export.utils import _compiling_state_context as as_if_compiling  # `is_compiling()` within
from torch._guards import TracingContext  # whether the compiler traces, and its fake mode

# Held while anything is compiled, in any thread, and by our traces: both replace functions of torch for all
# threads (`nn.Module.__call__`, how graphs become code), and would put back each other's for good.
from torch._dynamo.convert_frame import compile_lock

# What compiled functions ask by which callback to run is replaced here for a while, for there is no setting
# per thread: by capture/uncompiled_functions.py alone.
from torch._dynamo import eval_frame
from torch._C._dynamo import eval_frame as _frames
# ruff: isort: on

# Whether the branches of `torch.cond` may write to their operands where they are compiled: since torch 2.12
# ("Higher order ops do not support input mutation" before), and without gradients.
BRANCHES_MAY_WRITE = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 12)


def count_compiled_frames(count: int) -> int:
    """Begin to count the frames that are compiled, at `count`; returns the count until here, -1 for none.

    What is compiled with `fullgraph=True` counts, and demands one, unless somebody counts outside of it:
    from torch 2.12 on.
    """
    count_from = getattr(_frames, "set_fullgraph_compiled_frame_count", None)
    return count_from(count) if count_from is not None else -1


def before_compiling(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """What `torch.compile` was given, where `function` is what it returned."""
    return vars(function).get("_torchdynamo_orig_callable")


def is_marked(tensor: torch.Tensor, dynamic: bool) -> bool:
    """Whether `maybe_mark_dynamic`, or else `mark_static`, was told of sizes of `tensor`."""
    return hasattr(tensor, "_dynamo_weak_dynamic_indices" if dynamic else "_dynamo_static_indices")


def inductor(graph: torch.fx.GraphModule, inputs: Sequence[Any], options: Mapping[str, Any]) -> Any:
    """What `torch.compile(backend="inductor")` runs."""
    from torch._inductor.compile_fx import compile_fx

    return compile_fx(graph, inputs, config_patches=dict(options))  # type: ignore[arg-type]


def inductor_mode(name: str, dynamic: Any = None) -> dict[str, Any]:
    """The options that a mode of `torch.compile` stands for."""
    return torch._inductor.list_mode_options(name, dynamic)


def inductor_options() -> tuple[str, ...]:
    """The names of Inductor's options."""
    return tuple(torch._inductor.config.get_config_copy())


def compiler_reason(error: Exception) -> str:
    """What the compiler says that stopped it, in one line."""
    lines = [line.strip() for line in str(getattr(error, "inner_exception", error)).splitlines()]
    chosen = [next(filter(None, lines), ""), *(line for line in lines if line.startswith("Caused by:"))]
    return "; ".join(dict.fromkeys(line.rstrip(".: ") for line in chosen))


def aoti_write(exported: torch.export.ExportedProgram, path: Path, options: Mapping[str, Any]) -> None:
    """Compile an exported program ahead of time, into a package at `path`."""
    torch._inductor.aoti_compile_and_package(exported, package_path=str(path), inductor_configs=dict(options))


def aoti_read(path: str | Path, device_index: int) -> Callable[..., Any]:
    """The compiled program of a package. Raises `RuntimeError`."""
    return torch._inductor.aoti_load_package(str(path), device_index=device_index)  # type: ignore[no-any-return]


def capturing_scalars() -> AbstractContextManager[None]:
    """Within, the compiler compiles `.item()` rather than break the graph at it."""
    return torch._dynamo.config.patch(capture_scalar_outputs=True)  # type: ignore[no-any-return]


def forget_compiled(function: Callable[..., Any]) -> None:
    """Drop the code that was compiled for `function`, and for it alone (`torch.compiler.reset`: for all)."""
    eval_frame.reset_code(function.__code__)  # type: ignore[attr-defined]
