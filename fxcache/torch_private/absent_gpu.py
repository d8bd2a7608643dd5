"""What torch and Triton ask of a GPU while they compile for it, answered where there is none.

Seen in torch 2.14.1 and 2.15.0 with the Triton that each brings. Names that an older one lacks are left out,
so that this module is imported, and tested, everywhere; tests/gpu_codegen runs it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from .absent_attention import attention_as_on_cuda
from .compiler import compile_lock
from .tracing import FakeTensorMode

# Settings that would run something on the device while compiling, or that compile in other processes,
# where nothing is answered. What was not measured is not written down as the best choice.
WITHOUT_DEVICE = {
    "joint_graph_constant_folding": False,
    "shape_padding": False,
    "use_static_cuda_launcher": False,
    "use_static_triton_launcher": False,
    "use_fast_triton_launcher": False,
    "compile_threads": 1,
    "autotune_local_cache": False,
    "autotune_remote_cache": False,
    "bundled_autotune_remote_cache": False,
}


def builds_for_cuda() -> bool:
    """Whether this torch can compile for CUDA: it is a CUDA build, and Triton is there."""
    return torch.version.cuda is not None and importlib.util.find_spec("triton") is not None


def ptxas(capability: int) -> str | None:
    """The path of Triton's assembler for a GPU of this compute capability, as 90; None: it has none."""
    try:
        from triton.backends.nvidia.compiler import get_ptxas
    except ImportError:
        return None
    return str(get_ptxas(capability).path)


@contextlib.contextmanager
def answering_for(gpu: Any) -> Iterator[None]:
    """Within, torch and Triton find one GPU with the properties of `gpu`; nothing can run on it.

    gpu: has the attributes of `torch.cuda.get_device_properties`. For all threads: they do not compile
    meanwhile.
    """
    with compile_lock, contextlib.ExitStack() as stack:
        modules = _asking_modules()
        _fill_tables()
        stack.callback(_forget_answers, modules)
        for owner, answers in _answers(gpu):
            stack.enter_context(_replaced(owner, answers))
        stack.enter_context(_triton_driver(gpu))
        stack.enter_context(attention_as_on_cuda())
        _forget_answers(modules)
        config = torch._inductor.config
        known = {name: value for name, value in WITHOUT_DEVICE.items() if hasattr(config, name)}
        stack.enter_context(config.patch(known))
        yield


def _answers(gpu: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(module or class, what its functions answer)."""
    from torch._dynamo import device_interface
    from torch._inductor.codegen.wrapper import PythonWrapperCodegen
    from torch._inductor.runtime.triton_heuristics import CachingAutotuner
    from torch._subclasses import fake_tensor

    nothing, zero = _constantly(None), _constantly(0)
    cuda: dict[str, Callable[..., Any]] = {
        "is_available": _constantly(True),
        "device_count": _constantly(1),
        "current_device": zero,
        "set_device": nothing,
        "_exchange_device": zero,
        "_maybe_exchange_device": zero,
        "exchange_device": zero,
        "maybe_exchange_device": zero,
        "get_device_properties": _constantly(gpu),
        "get_device_capability": _constantly((gpu.major, gpu.minor)),
        "get_device_name": _constantly(gpu.name),
        "is_bf16_supported": _constantly(gpu.major >= 8),
        "is_current_stream_capturing": _constantly(False),
        "current_stream": _constantly(SimpleNamespace(cuda_stream=0, stream_id=0, device_index=0)),
        "get_raw_stream": zero,
        "set_stream": nothing,
        "synchronize": nothing,
        "memory_allocated": zero,
        "mem_get_info": _constantly((gpu.total_memory, gpu.total_memory)),
        "get_rng_state": lambda *_, **__: torch.zeros(16, dtype=torch.uint8),
        "get_rng_state_all": list,
        "set_rng_state": nothing,
        "set_rng_state_all": nothing,
        "_lazy_init": nothing,
    }
    yield torch.cuda, cuda
    yield torch.cuda.random, cuda
    interface: dict[str, Any] = {name: staticmethod(answer) for name, answer in cuda.items()}
    yield device_interface.CudaInterface, interface
    yield device_interface.CudaInterface.Worker, interface
    # What generated code imports.
    yield torch._C, {"_cuda_getCurrentRawStream": zero, "_cuda_isCurrentStreamCapturing": _constantly(False)}
    # Fake tensors "on" a device must not bring one up.
    yield FakeTensorMode, {"avoid_device_init": property(_constantly(True))}
    yield fake_tensor, {"init_gpu_context": nothing}
    # Of several configurations of a kernel the first is taken; nothing is measured.
    yield CachingAutotuner, {"bench": _constantly(0.0)}
    # What AOTInductor runs to choose them runs on fake tensors.
    run_block = PythonWrapperCodegen.generate_and_run_autotune_block
    yield PythonWrapperCodegen, {"generate_and_run_autotune_block": _on_fakes(run_block)}
    # 2.15 would move weights off the device meanwhile.
    yield sys.modules[PythonWrapperCodegen.__module__], {"_constant_offload_targets": _constantly(([], 0))}


@contextlib.contextmanager
def _replaced(owner: Any, answers: dict[str, Any]) -> Iterator[None]:
    """`owner` with other functions, where it has these."""
    before = {name: vars(owner)[name] for name in answers if name in vars(owner)}
    for name in before:
        setattr(owner, name, answers[name])
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def _constantly(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def _on_fakes(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return function(*args, **kwargs)

    return run


@contextlib.contextmanager
def _triton_driver(gpu: Any) -> Iterator[None]:
    """Triton, with a driver that loads and launches nothing.

    It is found by its class, so it is of the class of the real one, which looks for a device when it is made.
    """
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaDriver
    from triton.runtime import driver

    class AbsentDriver(CudaDriver):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            self.utils = SimpleNamespace(
                get_device_properties=_constantly({"max_shared_mem": gpu.shared_memory_per_block_optin}),
                # module, function, registers, spills, threads: the numbers are not known unless it is loaded;
                # no module, or a kernel that is collected later would ask the real driver to unload it
                load_binary=_constantly((None, 0, 0, 0, gpu.max_threads_per_block)),
                unload_module=_constantly(None),
            )
            self.launcher_cls = _constantly(_constantly(None))
            self.get_device_capability = _constantly((gpu.major, gpu.minor))
            self.get_current_stream = self.get_current_device = _constantly(0)
            self.set_current_device = _constantly(None)

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 10 * gpu.major + gpu.minor, gpu.warp_size)

    before = driver._active
    driver.set_active(AbsentDriver())
    try:
        yield
    finally:
        driver._active = before


def _fill_tables() -> None:
    """Dynamo's tables of torch's functions hold the functions themselves: they are to be the real ones."""
    from torch._dynamo import trace_rules
    from torch._dynamo.variables.torch import TorchInGraphFunctionVariable

    trace_rules.get_torch_obj_rule_map()
    TorchInGraphFunctionVariable._get_handlers()


def _asking_modules() -> list[ModuleType]:
    """Modules that keep what they were told of the device."""
    names = (
        *("torch.cuda", "torch.utils._triton", "torch._dynamo.device_interface"),
        *("torch._inductor.utils", "torch._inductor.codecache", "torch._inductor.runtime.hints"),
        *("torch._inductor.compile_fx", "torch._inductor.codegen.triton"),
    )
    return [importlib.import_module(name) for name in names]


def _forget_answers(modules: list[ModuleType]) -> None:
    """Empty the caches of functions and methods of `modules`, and the properties that workers are given."""
    for module in modules:
        own = [v for v in vars(module).values() if getattr(v, "__module__", None) == module.__name__]
        methods = [m for v in own if isinstance(v, type) for m in vars(v).values()]
        for value in (*own, *methods):
            function = getattr(value, "__func__", value)
            if isinstance(function, functools._lru_cache_wrapper):
                function.cache_clear()
    interface: Any = importlib.import_module("torch._dynamo.device_interface")
    interface.caching_worker_device_properties.pop("cuda", None)
