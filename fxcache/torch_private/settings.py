"""Settings that operators obey.

The public context managers call these functions of `torch._C`; they take a tenth of the time, and compile.
"""

from __future__ import annotations

from typing import Any

import torch


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


def any_autocast() -> bool:
    """Whether any kind of device casts: `torch.is_autocast_enabled(kind)` of all, at a fifth of the time."""
    return torch._C._is_any_autocast_enabled() or torch.is_autocast_enabled("mps")  # which the former forgets


def privateuse_name() -> str:
    """The kind of devices of a backend outside of torch: "npu", say; "privateuseone" where there is none."""
    return torch._C._get_privateuse1_backend_name()
