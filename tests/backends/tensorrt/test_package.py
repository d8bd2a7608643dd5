"""Packages: written with real engines, read back; what runs beside the engines returns the same numbers."""

from __future__ import annotations

import inspect
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import fxcache
from fxcache.backends.tensorrt import export_tensorrt, load_tensorrt
from fxcache.backends.tensorrt.available import require_torch_tensorrt
from fxcache.backends.tensorrt.compiling import prepare_all
from fxcache.backends.tensorrt.options import TensorRTOptions
from fxcache.backends.tensorrt.package import BoundEngine, _read_stage
from fxcache.backends.tensorrt.runner import EngineSet, HostRunner, StageRunner
from fxcache.errors import ExportError, LeftoverOperatorsError, PackageError, TensorRTDeviceError
from fxcache.package.manifest import read_manifest
from fxcache.package.packaged_transformer import PackagedTransformer
from fxcache.runtime.cached_transformer import CachedTransformer
from tests.backends.tensorrt.models import STAGES, Odd, Scaled
from tests.toy import ToyDiT

pytestmark = [pytest.mark.tensorrt, pytest.mark.filterwarnings("default")]
CONFIG = "F1B1_W1M0MC2_T1O1_R0.9"


@pytest.fixture(scope="module")
def cached() -> CachedTransformer:
    torch.manual_seed(0)
    return fxcache.transform(ToyDiT().requires_grad_(False), CONFIG)


@pytest.fixture(scope="module")
def written(cached: CachedTransformer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("package") / "toy.zip"
    yield export_tensorrt(cached, path, _inputs(0.9), dynamic=False)


def _inputs(time: float) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 5, 8, generator=generator) + time,
        "timestep": torch.full((2,), time),
    }


def test_the_package_is_readable(written: Path) -> None:
    assert read_manifest(written).notation == CONFIG
    with zipfile.ZipFile(written) as archive:
        for stage in STAGES:
            plan = json.loads(archive.read(f"fxcache/stages/{stage}/plan.json"))
            (engine,) = [p for p in plan["pieces"] if p["place"] == "engine"]
            assert len(archive.read(f"fxcache/stages/{stage}/engine.trt")) > 1000
            assert len(engine["takes"]) == len(engine["inputs"])
            assert len(engine["gives"]) == len(engine["outputs"])


def test_each_stage_reads_back_its_engine(written: Path) -> None:
    package = require_torch_tensorrt()
    with zipfile.ZipFile(written) as archive:
        for name in STAGES:
            stage = _read_stage(archive, name, package, written)
            steps = [inspect.unwrap(run) for _, run in stage._steps]
            (bound,) = [run for run in steps if isinstance(run, BoundEngine)]
            assert bound.module.serialized_engine == archive.read(f"fxcache/stages/{name}/engine.trt")
            engine = stage.stage.engine
            assert engine is not None and len(bound.module.input_binding_names) <= len(engine.inputs)


def test_what_runs_beside_the_engines_gives_the_trajectory(cached: CachedTransformer, written: Path) -> None:
    """The package's own float64 parts, effects, plans and state; the engines' pieces in PyTorch."""
    specialization, call = cached.specialization_for(_inputs(0.9))
    shapes = [tuple(t.shape) for t in call.tensors]
    sizes, prepared = prepare_all(specialization.program, shapes, TensorRTOptions())
    package = require_torch_tensorrt()
    stages = {}
    with zipfile.ZipFile(written) as archive:
        fields = json.loads(archive.read("fxcache/engines.json"))
        for stage in prepared:
            read = _read_stage(archive, stage.name, package, written).stage
            assert stage.engine is not None
            stages[stage.name] = StageRunner(read, stage.engine.graph)

    def refuse(shapes: Any) -> EngineSet:
        raise AssertionError(shapes)

    runner = HostRunner(fields["inputs"], fields["state"], 1, refuse)
    runner.sets.append(EngineSet(sizes, stages, {}))
    loaded = PackagedTransformer(read_manifest(written), runner)
    for time in (0.9, 0.85, 0.8, 0.75, 0.7, 0.65):
        torch.testing.assert_close(loaded(**_inputs(time)), cached(**_inputs(time)))
    hits = loaded.stats()["default"].segments[0].hits
    assert hits == cached.stats()["default"].segments[0].hits and any(hits) and not all(hits)


def test_a_package_for_a_range_of_sizes_says_which(cached: CachedTransformer, tmp_path: Path) -> None:
    path = fxcache.export(
        cached,
        tmp_path / "range.zip",
        _inputs(0.9),
        backend="tensorrt",
        dynamic={"hidden_states": {1: (4, 6)}},  # type: ignore[arg-type]
    )
    manifest = read_manifest(path)
    hidden, time = (entry.shape for entry in manifest.inputs)
    assert hidden[0] == 2 and isinstance(hidden[1], str) and hidden[2] == 8 and time == (2,)
    assert manifest.backend == "tensorrt"
    with zipfile.ZipFile(path) as archive:
        fields = json.loads(archive.read("fxcache/engines.json"))
        assert (fields["low"][0], fields["high"][0]) == ([2, 4, 8], [2, 6, 8])
        assert all(len(archive.read(f"fxcache/stages/{s}/engine.trt")) > 1000 for s in STAGES)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("load", [fxcache.load, load_tensorrt])
def test_loading_without_a_gpu_says_so(written: Path, load: Callable[[Path], object]) -> None:
    with pytest.raises(TensorRTDeviceError, match="this machine has none"):
        load(written)


def _forged(source: Path, target: Path, old: bytes, new: bytes) -> Path:
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, archive.read(name).replace(old, new))
    return target


def test_a_package_cannot_name_other_functions(written: Path, tmp_path: Path) -> None:
    forged = _forged(written, tmp_path / "a.zip", b'"function": "store"', b'"function": "system"')
    with zipfile.ZipFile(forged) as archive, pytest.raises(PackageError, match="the function system"):
        _read_stage(archive, "compute", require_torch_tensorrt(), forged)


def test_other_packages_and_other_builders_are_refused(written: Path, tmp_path: Path) -> None:
    other = _forged(written, tmp_path / "a.zip", b'"backend": "tensorrt"', b'"backend": "inductor"')
    with pytest.raises(PackageError, match="a package for inductor"):
        load_tensorrt(other)
    older = _forged(written, tmp_path / "b.zip", b'"builder": "TensorRT ', b'"builder": "TensorRT 0.')
    with pytest.raises(PackageError, match=r"built by TensorRT 0\."):
        fxcache.load(older)


def test_what_no_package_can_hold_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    for model, kind in ((Scaled(), ExportError), (Odd(), LeftoverOperatorsError)):
        cached = fxcache.transform(model.requires_grad_(False), CONFIG)
        with pytest.raises(kind):
            fxcache.export(cached, tmp_path / "model.zip", _inputs(0.9), backend="tensorrt", dynamic=False)
        assert not list(tmp_path.iterdir())
