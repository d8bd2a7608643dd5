"""Compile for a GPU on a machine without one."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import torch

from ..errors import BackendError, CudaBuildError
from ..torch_private import answering_for, builds_for_cuda, ptxas
from .gpus import GPU, GPUS


@contextlib.contextmanager
def target_gpu(arch: str) -> Iterator[GPU]:
    """Within the block torch compiles for CUDA as on a machine with one GPU of `arch`; nothing runs on it.

    Tensors "on" that device are fake ones, made under a `FakeTensorMode`. Dynamo, Inductor and Triton take
    them, down to machine code. Where Inductor would measure, it takes its first choice. It holds for the
    whole process, in which other threads do not compile meanwhile; all is put back at the end.

    Args:
        arch: a key of `GPUS`, as "sm_90".

    Raises:
        BackendError: an unknown `arch`; or torch sees a GPU here. CudaBuildError: this torch, or the lack of
        Triton, does not let it compile for CUDA.

    Example:
        >>> from fxcache.backends.absent_gpu import GPUS, target_gpu
        >>> GPUS["sm_90"].multi_processor_count
        132
        >>> with target_gpu("sm_1"):
        ...     pass
        Traceback (most recent call last):
        fxcache.errors.BackendError: arch='sm_1' must be one of sm_80, sm_89, sm_90, sm_100.
    """
    gpu = require_target(arch)
    with answering_for(gpu):
        yield gpu


def assembled(arch: str) -> bool:
    """Whether the assembler that Triton would use here makes machine code for `arch`, a key of `GPUS`."""
    gpu = GPUS[arch]
    path = ptxas(gpu.major * 10 + gpu.minor)
    if path is None:
        return False
    try:
        done = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return f"'{arch}'" in done.stdout


def require_target(arch: str) -> GPU:
    """The GPU that `target_gpu` stands for; raises what that does."""
    if arch not in GPUS:
        raise BackendError(f"arch={arch!r}", f"be one of {', '.join(GPUS)}")
    if not builds_for_cuda():
        raise CudaBuildError(torch.__version__)
    if torch.cuda.is_available():
        raise BackendError(
            f"arch={arch!r} where there is a GPU", "be left out, or hide the GPU: CUDA_VISIBLE_DEVICES="
        )
    return GPUS[arch]
