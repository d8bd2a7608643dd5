"""Import torch-tensorrt where there is no NVIDIA driver, and stop where a GPU would be needed.

Everything up to the serialized engine is the real thing: lowering, partitioning, network construction,
the TensorRT builder. What is stood in for:

- torch's questions about the device (compute capability, memory) get plausible answers;
- torch-tensorrt's C++ runtime, which links CUDA, is not loaded: the package takes its Python runtime;
- a built engine is kept as bytes instead of being deserialized, and is never set up for execution;
- tensors that lowering creates on the engine's device stay on the CPU.
"""

from __future__ import annotations

import os
import types
from typing import Any

import torch

MEMORY = 24 << 30


def needed() -> bool:
    """Whether this machine has no GPU that torch can use."""
    return not torch.cuda.is_available()


def install() -> None:
    """Make `import torch_tensorrt` work here. Only for tests, and only without a GPU."""
    _answer_for_the_device()
    _import_without_the_runtime()
    _keep_engines_as_bytes()


def _answer_for_the_device() -> None:
    properties = types.SimpleNamespace(
        major=8, minor=9, name="no device", total_memory=MEMORY, multi_processor_count=1
    )
    cuda: Any = torch.cuda
    cuda.get_device_capability = lambda device=None: (8, 9)
    cuda.get_device_properties = lambda device=None: properties
    cuda.mem_get_info = lambda device=None: (MEMORY, MEMORY)
    cuda.current_device = lambda: 0
    if not hasattr(torch._C, "_CudaDeviceProperties"):
        torch._C._CudaDeviceProperties = types.SimpleNamespace


def _import_without_the_runtime() -> None:
    isfile = os.path.isfile
    os.path.isfile = lambda path: "libtorchtrt" not in str(path) and isfile(path)
    try:
        import torch_tensorrt  # noqa: F401
    finally:
        os.path.isfile = isfile


class _Engine:
    def __init__(self, serialized: Any) -> None:
        self._bytes = bytes(serialized)

    def serialize(self) -> bytes:
        return self._bytes

    def get_aliased_input_tensor(self, name: str) -> str | None:
        """Asked by torch-tensorrt 2.14; fxcache's engines write to nothing that they are given."""
        return None


class _Runtime:
    def __init__(self, logger: Any) -> None:
        pass

    def deserialize_cuda_engine(self, serialized: Any) -> _Engine:
        return _Engine(serialized)


def _keep_engines_as_bytes() -> None:
    import tensorrt
    from torch_tensorrt._Device import Device
    from torch_tensorrt.dynamo.runtime import TorchTensorRTModule

    tensorrt.Runtime = _Runtime
    module: Any = TorchTensorRTModule
    module.setup_engine = lambda self: None
    module.set_output_tensors_as_unowned = lambda self, unowned: None
    device: Any = Device
    device.to = lambda self, kind: torch.device("cpu")
