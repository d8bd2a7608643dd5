"""Every private name of torch that fxcache uses, each with the reason. At a new release, look here first.

Private is what begins with an underscore, or is in a module that does. The tables of an `nn.Module`
(`_modules`, `_parameters`, `_buffers`, hooks), `Tensor._version` and an operator's `_schema` are read where
they are needed: they have been as they are since torch 1, and subclasses everywhere rely on them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

# ruff: isort: off
# Tracing: values with a shape and no memory, the mode that makes them, and the names of symbols.
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch._dynamo.source import ConstantSource  # a symbol is named by where it comes from
from torch.utils._sympy.printers import PythonPrinter  # a size's expression as Python

# torch's own containers: no public module opens and closes them.
from torch.utils import _pytree as pytree

# Operators: singletons without a public class, and the keys by which their kernels are found.
from torch._C import DispatchKey
from torch._ops import HigherOrderOperator, OperatorBase, OpOverload, OpOverloadPacket
from torch._higher_order_ops.effects import _get_effect as registered_effect  # the only record of these

# Modes: what sees every operator, and which modes the caller entered.
from torch._dispatch.python import enable_python_dispatcher  # operators in Python decompose
from torch.overrides import _get_current_function_mode_stack as function_modes
from torch.utils._device import DeviceContext  # what `with torch.device(...)` enters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._python_dispatch import _disable_current_modes as without_dispatch_modes
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack as dispatch_modes

# The compiler. What it marks and raises is documented, but under its private module.
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

# Modules in which a function is replaced for a while, for there is no setting per thread: each by the one
# file that imports it.
from torch._C._dynamo import eval_frame as frame_counts  # capture/uncompiled_functions.py
from torch._dynamo import eval_frame  # there, too
from torch.fx import _symbolic_trace as symbolic_trace  # capture/thread_isolation.py
# ruff: isort: on

__all__ = [
    "FAKE_TENSOR_LOG",
    "BackendCompilerFailed",
    "ConstantSource",
    "DeviceContext",
    "DispatchKey",
    "FailOnRecompileLimitHit",
    "FakeTensor",
    "FakeTensorMode",
    "HigherOrderOperator",
    "OpOverload",
    "OpOverloadPacket",
    "OperatorBase",
    "OptimizedModule",
    "PythonPrinter",
    "TorchDispatchMode",
    "TorchRuntimeError",
    "TracingContext",
    "Unsupported",
    "UserError",
    "aoti_read",
    "aoti_write",
    "as_if_compiling",
    "attention_kernels",
    "backend_precisions",
    "below_autograd",
    "capturing_scalars",
    "compile_lock",
    "composite_kernel",
    "deny_fx_tracing",
    "deterministic",
    "dispatch_modes",
    "enable_python_dispatcher",
    "eval_frame",
    "forget_compiled",
    "forget_environments",
    "frame_counts",
    "function_modes",
    "has_decomposition",
    "has_dispatch_modes",
    "has_function_modes",
    "inductor",
    "inductor_mode",
    "inductor_options",
    "library_kernels",
    "mark_static",
    "mark_static_address",
    "matmul_precision",
    "maybe_mark_dynamic",
    "pytree",
    "registered_effect",
    "set_attention_kernels",
    "set_backend_precisions",
    "set_deterministic",
    "set_library_kernels",
    "set_matmul_precision",
    "size_facts",
    "storage_id",
    "symbolic_trace",
    "without_dispatch_modes",
    "without_torch_function",
]

FAKE_TENSOR_LOG = "torch._subclasses.fake_tensor"  # where torch says what does not run on fake tensors


# Who traces


def has_dispatch_modes() -> bool:
    """Whether any dispatch mode is entered: `dispatch_modes()`, at a tenth of the time."""
    return bool(torch._C._len_torch_dispatch_stack())


def has_function_modes() -> bool:
    """Whether any torch function mode is entered: `function_modes()`, at a tenth of the time."""
    return bool(torch._C._len_torch_function_stack())


def deny_fx_tracing() -> None:
    """Tell whoever asks that nobody traces with torch.fx. The tracer puts it back when it ends."""
    symbolic_trace._is_fx_tracing_flag = False


# Operators and tensors


def below_autograd() -> AbstractContextManager[None]:
    """Operators called within are not recorded for gradients: for a kernel of the autograd key."""
    return torch._C._AutoDispatchBelowAutograd()  # type: ignore[no-any-return]


def without_torch_function() -> AbstractContextManager[None]:
    """Neither torch function modes nor the methods of subclasses see what is called within."""
    return torch._C.DisableTorchFunction()  # type: ignore[no-any-return]


def has_decomposition(func: OpOverload) -> bool:
    """Whether tracing would take another arithmetic for `func` than a call: its decomposition in Python.

    Operators that are made of others arrive whole where autograd is left out, as inference mode does.
    """
    key = DispatchKey.CompositeImplicitAutograd
    return key in func.py_kernels and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key)


def composite_kernel(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What a call of an operator that is made of others runs."""
    return func._op_dk(DispatchKey.CompositeImplicitAutograd, *args, **kwargs)


def storage_id(tensor: torch.Tensor) -> int:
    """A number for the memory of `tensor`, also of one without an address."""
    return tensor.untyped_storage()._cdata


# Settings that operators obey. The public context managers call these functions; they take a tenth of the
# time, and compile.


def attention_kernels() -> tuple[Any, ...]:
    """Which kernels `scaled_dot_product_attention` may take, and in which order."""
    c = torch._C
    return (
        c._get_flash_sdp_enabled(),
        c._get_mem_efficient_sdp_enabled(),
        c._get_math_sdp_enabled(),
        c._get_cudnn_sdp_enabled(),
        tuple(c._get_sdp_priority_order()),
    )


def set_attention_kernels(value: tuple[Any, ...]) -> None:
    c = torch._C
    c._set_sdp_use_flash(value[0])
    c._set_sdp_use_mem_efficient(value[1])
    c._set_sdp_use_math(value[2])
    c._set_sdp_use_cudnn(value[3])
    c._set_sdp_priority_order(list(value[4]))


def matmul_precision() -> str:
    return torch._C._get_float32_matmul_precision()


def set_matmul_precision(value: str) -> None:
    torch._C._set_float32_matmul_precision(value)


def backend_precisions() -> tuple[str, str]:
    """The float32 precision of matrix products on CUDA and in oneDNN."""
    get = torch._C._get_fp32_precision_getter
    found = get("cuda", "matmul"), get("mkldnn", "matmul")
    return ("ieee" if found[0] == "none" else found[0], "ieee" if found[1] == "none" else found[1])


def set_backend_precisions(value: tuple[str, str]) -> None:
    torch._C._set_fp32_precision_setter("cuda", "matmul", value[0])
    torch._C._set_fp32_precision_setter("mkldnn", "matmul", value[1])


def library_kernels() -> tuple[bool, ...]:
    """Switches of cuDNN and oneDNN."""
    c = torch._C
    return (
        c._get_cudnn_enabled(),
        c._get_cudnn_benchmark(),
        c._get_cudnn_deterministic(),
        c._get_cudnn_allow_tf32(),
        c._get_mkldnn_enabled(),
    )


def set_library_kernels(value: tuple[bool, ...]) -> None:
    c = torch._C
    c._set_cudnn_enabled(value[0])
    c._set_cudnn_benchmark(value[1])
    c._set_cudnn_deterministic(value[2])
    c._set_cudnn_allow_tf32(value[3])
    c._set_mkldnn_enabled(value[4])


def deterministic() -> tuple[bool, bool]:
    """Whether deterministic algorithms are used, and whether the lack of one only warns."""
    return torch._C._get_deterministic_algorithms(), torch._C._get_deterministic_algorithms_warn_only()


def set_deterministic(value: tuple[bool, bool]) -> None:
    torch._C._set_deterministic_algorithms(value[0], warn_only=value[1])


# Inductor and AOTInductor: documented, but under a private module, which is loaded at the first use.


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


def aoti_write(exported: torch.export.ExportedProgram, path: Path, options: Mapping[str, Any]) -> None:
    """Compile an exported program ahead of time, into a package at `path`."""
    torch._inductor.aoti_compile_and_package(exported, package_path=str(path), inductor_configs=dict(options))


def aoti_read(path: str | Path, device_index: int) -> Callable[..., Any]:
    """The compiled program of a package. Raises `RuntimeError`."""
    return torch._inductor.aoti_load_package(str(path), device_index=device_index)  # type: ignore[no-any-return]


# Dynamo


def capturing_scalars() -> AbstractContextManager[None]:
    """Within, the compiler compiles `.item()` rather than break the graph at it."""
    return torch._dynamo.config.patch(capture_scalar_outputs=True)  # type: ignore[no-any-return]


def forget_environments() -> None:
    """Empty the function caches of `ShapeEnv`'s methods, one of them without a limit.

    They hold every environment, and with ours the inputs of the call that was captured. What is asked again
    is worked out again.
    """
    for value in vars(ShapeEnv).values():
        if isinstance(value, functools._lru_cache_wrapper):
            value.cache_clear()


def forget_compiled(function: Callable[..., Any]) -> None:
    """Drop the code that was compiled for `function`, and for it alone (`torch.compiler.reset`: for all)."""
    eval_frame.reset_code(function.__code__)  # type: ignore[attr-defined]


def size_facts(env: ShapeEnv) -> tuple[Any, ...]:
    """All by which `env` decides about sizes, by values alone: equal facts decide alike.

    No public attribute of an environment says it whole.
    """
    ranges = ((symbol, r.lower, r.upper) for symbol, r in env.var_to_range.items())
    asserted = (a.expr for some in env.deferred_runtime_asserts.values() for a in some)
    return (
        env.settings,
        frozenset(env.backed_var_to_val.items()),
        frozenset(env.var_to_hint_override.items()),
        frozenset(ranges),
        frozenset(env.replacements.items()),
        frozenset(env.divisible),
        frozenset(env.size_like),
        frozenset((guard.expr, guard.size_oblivious) for guard in env.guards),
        frozenset(asserted),
    )
