"""Models written otherwise than diffusers' are, as packages; one of them run by a program in C++."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor
from torch.utils._sympy.functions import FloorDiv

import fxcache
from fxcache import PackagedTransformer
from fxcache.errors import ExportError, PackageInputError
from fxcache.package.aoti import postfix
from tests.behaviour.forms import comfy, dit_cfg, native_flux, nested
from tests.behaviour.forms.form import CACHING, HITS, STEPS, Call, Form


def unpatched(done: float) -> Call:
    return comfy.call(done, patched=False)


FORMS: dict[str, tuple[Form, Callable[[float], Call]]] = {
    "native Flux": (native_flux.FORM, native_flux.call),
    "ComfyUI": (comfy.FORM, unpatched),
    "DiT with guidance": (dit_cfg.FORM, dit_cfg.call),
}


def exported(name: str, folder: Path) -> tuple[Any, Path]:
    form, call = FORMS[name]
    cached = fxcache.transform(form.model(), CACHING, **form.options)
    return cached, fxcache.export(cached, folder / "form.pt2", call(0.0))


def run(name: str, model: Any, method: str = "forward") -> list[Tensor]:
    _, call = FORMS[name]
    with torch.no_grad():
        return [getattr(model, method)(**call(step / STEPS)) for step in range(STEPS)]


@pytest.mark.full
@pytest.mark.parametrize("name", FORMS)
def test_a_package_equals_the_module(name: str, tmp_path: Path) -> None:
    cached, path = exported(name, tmp_path)
    package = fxcache.load(path)
    ours, theirs = run(name, package, "__call__"), run(name, cached, FORMS[name][0].method)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert package.stats()["default"].hits == cached.stats()["default"].hits == HITS
    if name == "DiT with guidance":
        assert torch.equal(run(name, package, "forward_with_cfg")[0], ours[0])
    if name == "ComfyUI":
        _other_options(package)
    if name == "native Flux":
        larger = native_flux.call(0.5, height=3, width=4, words=7)
        with torch.no_grad():
            torch.testing.assert_close(package(**larger), cached(**larger), rtol=1e-4, atol=1e-4)


def _other_options(package: PackagedTransformer) -> None:
    """The ignored ones may be anything; the others are what they were."""
    call = unpatched(0.0)
    call["transformer_options"]["uuids"] = "whatever"
    with torch.no_grad():
        package(**call)
        call["transformer_options"]["cond_or_uncond"] = [0, 0]
        with pytest.raises(PackageInputError, match="cond_or_uncond"):
            package(**call)


def test_what_no_package_can_compare_is_refused_by_its_place(tmp_path: Path) -> None:
    cached = fxcache.transform(comfy.FORM.model(), CACHING, **comfy.FORM.options)
    with pytest.raises(ExportError, match=r"transformer_options\['patches'\].* is a method") as error:
        fxcache.export(cached, tmp_path / "form.pt2", comfy.call(0.0))
    assert "Leave it out of the call" in str(error.value)


@pytest.mark.full
@pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("g++") is None, reason="needs cmake and g++"
)
def test_a_program_without_python_runs_the_native_flux(tmp_path: Path) -> None:
    cached, path = exported("native Flux", tmp_path)
    roles = json.loads(zipfile.ZipFile(path).read(_manifest(path)))["roles"]
    call = native_flux.call(0.0)
    tensors = list(call.values())
    torch.save(tensors, tmp_path / "inputs.pt")
    source = Path(__file__).parents[2] / "bench" / "cpp"
    configure = ["cmake", "-S", str(source), "-B", str(tmp_path / "build")]
    configure.append(f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}")
    build = ["cmake", "--build", str(tmp_path / "build"), "--target", "replay"]
    for command in (configure, build):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if torch.version.cuda and "CUDA cannot be found" in done.stderr:
            pytest.skip("CMake takes a CUDA build of torch beside a CUDA toolkit only, and finds none")
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    arguments = [path, tmp_path / "inputs.pt", 12, roles["sample"], roles["time"]]
    program = [str(tmp_path / "build" / "replay"), *map(str, arguments)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    checksum, hits = done.stdout.split()

    with torch.no_grad():
        for step in range(12):
            call["timesteps"] = torch.full((1,), 1 - step / 12)
            call["img"] = call["img"] - cached(**call) / 12
    assert float(checksum) == pytest.approx(call["img"].double().abs().sum().item(), rel=1e-5)
    assert int(hits) == cached.stats().cached > 0


def test_sizes_for_programs_without_python() -> None:
    a, b = sympy.symbols("a b", integer=True, positive=True)
    places = {a: "@0.1", b: "@2.1"}
    assert [postfix(size, places) for size in (7, sympy.Integer(3), a)] == ["7", "3", "@0.1"]
    assert postfix(a + b, places) in ("@0.1:@2.1:+", "@2.1:@0.1:+")
    assert postfix(FloorDiv(a, 2) * b + 1, places).count(":") == 6
    assert postfix(sympy.Mod(a, 4), places) == "@0.1:4:%"


def _manifest(path: Path) -> str:
    return next(name for name in zipfile.ZipFile(path).namelist() if name.endswith("fxcache.json"))


def test_dataclasses_among_the_inputs(tmp_path: Path) -> None:
    """The result of this one is no plain tree, but its arguments are described."""
    cached = fxcache.transform(nested.FORM.model(), CACHING)
    specialization, _ = cached.specialization_for(nested.call(0.0))
    names = specialization.program.capture.inputs
    assert "conditioning.text" in names and "latents['audio']" in names
