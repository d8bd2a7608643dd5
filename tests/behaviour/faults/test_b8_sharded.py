"""B8: a model that FSDP shards is refused before anything of it runs, and stays as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import fxcache
from fxcache.errors import CaptureError
from tests.behaviour.faults.base import EAGER, Base, build, sample


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("first", ["shard", "transform"])
@pytest.mark.parametrize("whole", [True, False])
def test_b8_a_sharded_model_is_refused_and_stays_whole(mesh: Any, whole: bool, first: str) -> None:
    model = build(Base)
    expected = [model(*call) for call in sample()]
    cached = fxcache.transform(model, EAGER) if first == "transform" else None
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    if whole:
        fully_shard(model, mesh=mesh)
    with torch.no_grad():
        before = [model(*call) for call in sample()]
        cached = fxcache.transform(model, EAGER) if cached is None else cached
        held = [(type(p), id(p)) for p in model.parameters()]
        for call in sample():
            with pytest.raises(CaptureError, match=r"sharded by FSDP; transform a model that is whole"):
                cached(*call)
        assert [(type(p), id(p)) for p in model.parameters()] == held
        after = [model(*call) for call in sample()]
    for one, two, three in zip(expected, before, after, strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)


def test_b8_under_passthrough_it_runs_uncached(mesh: Any) -> None:
    model = build(Base)
    expected = [model(*call) for call in sample()]
    fully_shard(model, mesh=mesh)
    cached = fxcache.transform(model, EAGER, on_unsupported="passthrough")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert all(torch.equal(cached(*call), one) for call, one in zip(sample(), expected, strict=True))
