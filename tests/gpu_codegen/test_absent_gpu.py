"""The GPU that is not there: it is asked for machine code, and is gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import triton
from torch._dynamo import device_interface
from torch._inductor.runtime.triton_heuristics import CachingAutotuner
from torch._subclasses import fake_tensor

from fxcache.backends.absent_gpu import GPUS, target_gpu

pytestmark = pytest.mark.gpu_codegen


def asked() -> Iterator[tuple[str, Any]]:
    """What the GPU answers for, and the settings."""
    owners = (
        torch.cuda,
        torch.cuda.random,
        device_interface.CudaInterface,
        device_interface.CudaInterface.Worker,
        fake_tensor,
        fake_tensor.FakeTensorMode,
        CachingAutotuner,
    )
    for owner in owners:
        yield from ((f"{owner.__name__}.{name}", value) for name, value in vars(owner).items())
    yield from torch._inductor.config.get_config_copy().items()
    operator = torch.ops.aten.scaled_dot_product_attention.default
    yield "attention", tuple(operator.py_kernels)
    yield "driver", triton.runtime.driver._active


def test_all_is_put_back() -> None:
    before = dict(asked())
    with pytest.raises(KeyError), target_gpu("sm_90"):
        within = dict(asked())
        raise KeyError
    assert dict(asked()) == before
    changed = {name for name in before if before[name] is not within[name]}
    assert {"torch.cuda.is_available", "attention", "driver", "shape_padding"} <= changed
    assert not torch.cuda.is_available()


@pytest.mark.parametrize("arch", GPUS)
def test_torch_and_triton_find_it(arch: str) -> None:
    with target_gpu(arch) as gpu:
        assert torch.cuda.is_available() and torch.cuda.device_count() == 1
        assert torch.cuda.get_device_properties(0) is gpu
        assert torch.cuda.get_device_capability() == (gpu.major, gpu.minor)
        assert torch.cuda.is_bf16_supported()
        target = triton.runtime.driver.active.get_current_target()
        assert f"sm_{target.arch}" == arch
        interface = device_interface.get_interface_for_device("cuda")
        assert f"sm_{interface.get_compute_capability()}" == arch
