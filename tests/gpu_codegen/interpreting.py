"""Run generated code on real numbers without a GPU: its Triton kernels by Triton's interpreter.

Its buffers are in the host's memory then, and libraries' kernels are the CPU's. The process has to be started
with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import triton.language as tl
from torch import Tensor
from torch._C._dynamo import guards
from torch._inductor.runtime import triton_helpers
from triton.runtime.interpreter import TensorHandle

INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"

# Functions of CUDA's libdevice, and torch's that do the same.
LIBDEVICE = {
    **{name: getattr(torch, name) for name in ("ceil", "cos", "erf", "exp", "exp2", "expm1", "floor")},
    **{name: getattr(torch, name) for name in ("fmod", "log", "log1p", "log2", "pow", "rsqrt", "sin")},
    **{name: getattr(torch, name) for name in ("sqrt", "tanh", "trunc")},
    "nearbyint": torch.round,
    "rint": torch.round,
}
TESTS = {"isinf": torch.isinf, "isnan": torch.isnan}  # these give numbers, 0 or 1


@contextlib.contextmanager
def interpreting() -> Iterator[None]:
    """Within `target_gpu`, what is compiled from here on runs on tensors in the host's memory."""
    assert INTERPRETS, "start the process with TRITON_INTERPRET=1"
    functions = {
        **{name: _elementwise(f) for name, f in LIBDEVICE.items()},
        **{name: _elementwise(f, tl.int32) for name, f in TESTS.items()},
    }
    before = triton_helpers.libdevice, guards._empty_strided_cuda
    # As on a GPU, a division by zero is no error.
    scoped = torch.library._scoped_library
    with np.errstate(all="ignore"), scoped("aten", "IMPL") as aten, scoped("prims", "IMPL") as prims:
        aten.impl("_scaled_dot_product_efficient_attention", _efficient_attention, "CPU")
        prims.impl("device_put", _copied, "BackendSelect", allow_override=True)
        triton_helpers.libdevice = SimpleNamespace(**functions)
        guards._empty_strided_cuda = guards._empty_strided_cpu
        try:
            yield
        finally:
            triton_helpers.libdevice, guards._empty_strided_cuda = before


def _copied(tensor: Tensor, device: torch.device, non_blocking: bool = False) -> Tensor:
    """What a copy to the GPU's memory is here."""
    return tensor.clone()


def _elementwise(function: Callable[..., Tensor], gives: tl.dtype | None = None) -> Callable[..., tl.tensor]:
    def run(*operands: tl.tensor) -> tl.tensor:
        values = [torch.from_numpy(np.array(o.handle.data)) for o in operands]
        first = operands[0]
        kind = first.type.scalar if gives is None else gives
        data = function(*values).numpy().astype(np.int32 if gives is not None else first.handle.data.dtype)
        shaped = tl.block_type(kind, list(data.shape)) if first.type.is_block() else kind
        return tl.tensor(TensorHandle(data, kind), shaped)

    return run


def _efficient_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
) -> tuple[Any, ...]:
    """The result alone, laid out as CUDA's kernel does."""
    assert not compute_log_sumexp and not dropout_p
    result = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_bias, is_causal=is_causal, scale=scale
    )
    none = query.new_empty(0)
    return result.transpose(1, 2).contiguous().transpose(1, 2), none, none, none
