"""Which kernel `scaled_dot_product_attention` takes on CUDA, decided without asking the device.

torch decides that in C++, where no device means arithmetic one operator at a time: compiled code would not be
that of a GPU. cuDNN's kernel, which some GPUs prefer, stands behind the same interface as flash attention's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.backends import cuda

from .operators import DispatchKey

WIDEST = 256  # head size that the fused kernels take


@contextlib.contextmanager
def attention_as_on_cuda() -> Iterator[None]:
    """Within, attention of fake CUDA tensors is one operator where a GPU's would be, in what is traced."""
    aten = torch.ops.aten
    operator = aten.scaled_dot_product_attention.default
    key = DispatchKey.CompositeImplicitAutograd

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        given = (query, key, value)
        size = query.shape[-1]
        fused = query.device.type == "cuda" and not enable_gqa and value.shape[-1] == size <= WIDEST
        if fused and attn_mask is None and query.dtype != torch.float32 and cuda.flash_sdp_enabled():
            scale = size**-0.5 if scale is None else scale
            padded = [torch.nn.functional.pad(t, (0, -size % 8)) if size % 8 else t for t in given]
            result = aten._scaled_dot_product_flash_attention(*padded, dropout_p, is_causal, scale=scale)[0]
            return result[..., :size] if size % 8 else result
        alignment = 4 if query.dtype == torch.float32 else 8
        if fused and size % alignment == 0 and cuda.mem_efficient_sdp_enabled():
            bias = None if attn_mask is None else _bias(attn_mask, query, key)
            grad = torch.is_grad_enabled() and any(t.requires_grad for t in given)
            call = aten._scaled_dot_product_efficient_attention
            return call(*given, bias, grad, dropout_p, is_causal, scale=scale)[0]
        call = aten._scaled_dot_product_attention_math
        return call(*given, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)[0]

    operator.py_impl(key)(attention)
    try:
        yield
    finally:
        del operator.py_kernels[key]
        operator._dispatch_cache.clear()


def _bias(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The mask as numbers to add, for each head, its rows aligned."""
    if mask.dtype == torch.bool:
        bias = torch.zeros_like(mask, dtype=query.dtype)
        mask = bias.masked_fill(~mask, float("-inf"))
    columns = mask.shape[-1]
    if columns % 16:
        mask = torch.nn.functional.pad(mask, (0, -columns % 16))[..., :columns]
    return mask.expand(*query.shape[:-1], key.shape[-2])
