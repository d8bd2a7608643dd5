"""What diffusers' parallelism asks of a machine, and a build of torch for CPUs has not."""

from __future__ import annotations

import torch


def install() -> None:
    """Let `enable_parallelism` take its ranks' devices modulo one, and tensor parallelism run on CPUs."""
    torch.accelerator.device_count = lambda: 1
    try:
        from diffusers.hooks import tensor_parallel
    except ImportError:  # older than 0.42
        return
    kinds = tensor_parallel._SUPPORTED_TP_DEVICES
    tensor_parallel._SUPPORTED_TP_DEVICES = type(kinds)([*kinds, "cpu"])
