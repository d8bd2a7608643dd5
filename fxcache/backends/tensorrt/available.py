"""Is what the backend needs there? Imports happen here, on request, never when fxcache is imported."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ...errors import BackendError, TensorRTDeviceError, TensorRTMissingError


def require_torch_tensorrt() -> Any:
    """The module `torch_tensorrt`. Raises `TensorRTMissingError`, which says what to install."""
    try:
        return importlib.import_module("torch_tensorrt")
    except ModuleNotFoundError as error:
        raise TensorRTMissingError(f"there is no module '{error.name}'") from error
    except Exception as error:  # it looks for a driver and for shared libraries while it is imported
        reason = str(error).strip().splitlines()[:1]
        raise TensorRTMissingError(
            f"it is installed but cannot be imported here ({type(error).__name__}: {''.join(reason)}); "
            "it needs an NVIDIA driver and a CUDA build of torch"
        ) from error


def require_known(package: Any, extra: Mapping[str, Any]) -> None:
    """Raises `BackendError` for arguments that torch-tensorrt does not have: it would ignore them."""
    known = inspect.signature(package.dynamo.compile).parameters
    unknown = [name for name in extra if name not in known]
    if unknown:
        raise BackendError(f"{', '.join(unknown)}=", "be an argument of torch_tensorrt.dynamo.compile")


def require_gpu(tensors: Iterable[torch.Tensor]) -> None:
    """Raises `TensorRTDeviceError` where there is no GPU, or where `tensors` are not on one."""
    if not torch.cuda.is_available() or torch.version.hip is not None:
        raise TensorRTDeviceError(
            "this machine has none that torch can use",
            "Without one, `fxcache tensorrt-report` still says what would run in engines.",
        )
    elsewhere = {str(t.device) for t in tensors if t.device.type != "cuda"}
    if elsewhere:
        raise TensorRTDeviceError(
            f"the model has tensors on {', '.join(sorted(elsewhere))}", 'Move it first: model.to("cuda").'
        )
