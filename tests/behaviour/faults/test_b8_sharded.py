"""B8: a model that FSDP shards is cached, or refused before anything of it runs; it stays as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import fxcache
from fxcache.errors import BackendError, CaptureError, ExportError
from tests.behaviour.faults.base import EAGER, NEVER, Base, build, sample


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Any]:
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def shard(model: Any, mesh: Any, whole: bool, **options: Any) -> Any:
    for block in model.blocks:
        fully_shard(block, mesh=mesh, **options)
    return fully_shard(model, mesh=mesh, **options) if whole else model


@pytest.mark.parametrize("first", ["shard", "transform"])
@pytest.mark.parametrize("whole", [True, False])
def test_b8_a_sharded_model_is_cached_and_stays_whole(mesh: Any, whole: bool, first: str) -> None:
    model = build(Base)
    expected = [model(*call) for call in sample()]
    cached = fxcache.transform(model, NEVER) if first == "transform" else None
    shard(model, mesh, whole)
    with torch.no_grad():
        cached = fxcache.transform(model, NEVER) if cached is None else cached
        found = [cached(*call) for call in sample()]
        after = [model(*call) for call in sample()]
        cached.configure(EAGER)
        for call in sample():
            cached(*call)
    for one, two, three in zip(expected, found, after, strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)
    assert cached.stats()["default"].cached_steps == (1, 2, 3)
    assert cached.processes == ()  # there is one
    with pytest.raises(ExportError, match="FSDP gathers its parameters"):
        fxcache.export(cached, "unused.pt2", {})
    with pytest.raises(BackendError, match="FSDP gathers its parameters"):
        fxcache.compile(cached, backend="tensorrt")


@pytest.mark.parametrize("option", ["raise", "passthrough"])
def test_b8_what_cannot_be_traced_around_is_refused_and_stays_whole(mesh: Any, option: str) -> None:
    model = shard(build(Base), mesh, True, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    with torch.no_grad():
        before = [model(*call) for call in sample()]
        held = [(type(p), id(p)) for p in model.parameters()]
        cached = fxcache.transform(model, EAGER, on_unsupported=option)
        for call, one in zip(sample(), before, strict=True):
            if option == "passthrough":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert torch.equal(cached(*call), one)
                continue
            with pytest.raises(CaptureError, match="MixedPrecisionPolicy"):
                cached(*call)
        assert [(type(p), id(p)) for p in model.parameters()] == held
        assert all(torch.equal(model(*call), one) for call, one in zip(sample(), before, strict=True))


def test_b8_a_plan_names_the_class_that_was_sharded(mesh: Any) -> None:
    model = shard(build(Base), mesh, True)
    plan = fxcache.plan(steps=4, speedup=2).replace(model="Base")
    with torch.no_grad():
        cached = fxcache.transform(model, plan)
        for call in sample():
            cached(*call)
    cached.use(plan)
    assert len(cached.stats()["default"].cached_steps) > 0
