"""Compiling for a GPU that is not there, as far as a torch without CUDA can tell: it is refused by name.

The rest is in tests/gpu_codegen, which needs a CUDA build.
"""

from __future__ import annotations

import pytest
import torch

from fxcache import torch_private
from fxcache.backends import absent_gpu
from fxcache.backends.absent_gpu import GPUS, target_gpu
from fxcache.errors import BackendError, CudaBuildError


def test_each_gpu_is_named_by_its_capability() -> None:
    assert {name: f"sm_{gpu.major}{gpu.minor}" for name, gpu in GPUS.items()} == {n: n for n in GPUS}


@pytest.mark.skipif(torch_private.builds_for_cuda(), reason="this torch compiles for CUDA")
def test_a_torch_without_cuda_is_refused() -> None:
    with pytest.raises(CudaBuildError, match="install a CUDA build"), target_gpu("sm_90"):
        pass
    assert not torch.cuda.is_available()


def test_a_torch_that_sees_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absent_gpu, "builds_for_cuda", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(BackendError, match="CUDA_VISIBLE_DEVICES"), target_gpu("sm_90"):
        pass
