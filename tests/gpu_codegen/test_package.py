"""Build here, deploy there: packages for a GPU, written whole on a machine without one."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import fxcache
from fxcache.cli import main
from fxcache.errors import PackageError
from fxcache.package.describe import dtype_name
from fxcache.package.manifest import Manifest, read_manifest
from tests.sweep import sweep
from tests.toy import latents, toy

from .subjects import CASES, config_of, small

pytestmark = pytest.mark.gpu_codegen
SETTING = "F1B0_W4M0MC3_T1O1_R0.12"
ELF = b"\x7fELF"


def in_bfloat16(value: Any) -> Any:
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.to(torch.bfloat16) if floating else value


class Shifted(nn.Module):
    """A model with a buffer, of which the compiler makes copies."""

    def __init__(self) -> None:
        super().__init__()
        self.toy = toy()
        self.register_buffer("shift", torch.linspace(-1, 1, 8))

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        return self.toy(hidden_states + self.shift, timestep)


Subject = tuple[nn.Module, Mapping[str, Any], fxcache.CacheConfig]
SUBJECTS = ["toy-dbcache", *(f"{name}-{setting}" for name in CASES for setting in ("dbcache", "plan"))]


@pytest.fixture(scope="module", params=sweep(SUBJECTS, ["toy-dbcache"]))
def subject(request: pytest.FixtureRequest) -> Subject:
    name, setting = request.param.split("-")
    inputs: Mapping[str, Any]
    if name == "toy":
        model: nn.Module = Shifted().eval()
        inputs = {"hidden_states": latents(1, 0)[0], "timestep": torch.ones(1)}
    else:
        model, inputs = small(name)
    inputs = {name: in_bfloat16(value) for name, value in inputs.items()}
    return model.to(torch.bfloat16), inputs, config_of(setting)


@pytest.fixture(scope="module")
def package(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, inputs, config = subject
    path = tmp_path_factory.mktemp("gpu") / "model.pt2"
    return fxcache.export(fxcache.transform(model, config), path, inputs, arch="sm_90")


def files(path: Path, suffix: str) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist() if name.endswith(suffix)}


def weights_are_in(path: Path, model: nn.Module) -> bool:
    """Whether the bytes of every weight are in the library, which holds them behind its code."""
    code = b"".join(files(path, ".so").values())
    tensors = [p.detach().contiguous() for p in (*model.parameters(), *model.buffers())]
    return all(t.flatten().view(torch.uint8).numpy().tobytes() in code for t in tensors)


def test_a_package_is_written_whole(subject: Subject, package: Path) -> None:
    kernels = files(package, ".cubin")
    print(f"{len(kernels)} kernels, {sum(map(len, kernels.values()))} bytes of {package.stat().st_size}")
    assert len(kernels) > 10
    assert all(kernel.startswith(ELF) for kernel in kernels.values())
    assert [code[:4] for code in files(package, ".so").values()] == [ELF]
    assert weights_are_in(package, subject[0])
    other = toy(seed=1).to(torch.bfloat16)
    assert not weights_are_in(package, other)


def test_its_manifest_says_for_what_it_is(subject: Subject, package: Path) -> None:
    manifest = read_manifest(package)
    assert manifest.devices == {"cuda:0"} and manifest.device_kinds == ("cuda",)
    assert manifest.hardware["cuda"] == "9.0" and manifest.hardware["arch"] == "sm_90"
    assert manifest.hardware["cuda_version"] == torch.version.cuda
    assert manifest.torch == torch.__version__
    assert manifest.kernels == len(files(package, ".cubin"))
    given = [value for value in subject[1].values() if isinstance(value, Tensor)]
    assert {entry.dtype for entry in manifest.inputs} == {dtype_name(value.dtype) for value in given}
    assert any(isinstance(size, str) for entry in manifest.inputs for size in entry.shape)


def test_it_is_not_loaded_where_no_gpu_is(package: Path) -> None:
    with pytest.raises(PackageError, match=r"CUDA device of capability 9\.0 and torch sees none.*its driver"):
        fxcache.load(package)


def test_a_mistake_is_said_before_anything_is_compiled(tmp_path: Path) -> None:
    path = tmp_path / "never.pt2"
    example = {"hidden_states": latents(1, 0)[0], "timestep": torch.ones(1)}
    offloading = fxcache.CacheConfig(fn_compute_blocks=1, history_offload=True)
    with pytest.raises(fxcache.errors.ExportError, match="history_offload"):
        fxcache.export(fxcache.transform(toy(), offloading), path, example, arch="sm_90")
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(fxcache.errors.ExportError, match="autocast"):
        fxcache.export(fxcache.transform(toy(), SETTING), path, example, arch="sm_90")  # type: ignore[arg-type]
    assert not path.exists()


@pytest.mark.full
def test_the_command_builds_for_another_machine(tmp_path: Path) -> None:
    path = tmp_path / "embedded.pt2"
    words = ["export", str(path), "--device", "cuda", "--arch", "sm_80", "--static", "--config", SETTING]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    manifest: Manifest = read_manifest(path)
    assert manifest.hardware["cuda"] == "8.0" and manifest.kernels == len(files(path, ".cubin")) > 30
