"""Files and inputs that cannot work are refused with a reason, before native code is loaded."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fxcache
from fxcache.errors import ArgumentsError, ExportError, PackageError, PackageInputError, UnknownSizeError
from fxcache.package.manifest import ENTRY, read_manifest
from fxcache.package.size_expr import size_function
from fxcache.torch_private import COPIES_UNKNOWN_SIZES
from tests.behaviour.faults.base import Base, build
from tests.toy import latents, toy


def edited(package: Path, target: Path, change: Callable[[dict[str, Any]], None] | None) -> Path:
    """A copy of a package with its manifest changed, or left out."""
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(target, "w") as copy:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("/" + ENTRY):
                if change is None:
                    continue
                fields = json.loads(data)
                change(fields)
                data = json.dumps(fields).encode()
            copy.writestr(name, data)
    return target


def test_the_manifest_is_readable(toy_package: Path) -> None:
    manifest = read_manifest(toy_package)
    assert manifest.model == "ToyDiT" and manifest.notation == "F1B1_W3M0MC2_T1O1_R1000"
    assert [e.name for e in manifest.inputs] == ["hidden_states", "timestep"]
    assert manifest.inputs[0].shape[2] == 8 and isinstance(manifest.inputs[0].shape[0], str)
    assert {e.name.split("_")[0] for e in manifest.state} == {
        "clock",
        "log",
        "sample",
        "previous",
        "knobs",
        "blocks",
    }
    with zipfile.ZipFile(toy_package) as archive:
        json.loads(archive.read(next(n for n in archive.namelist() if n.endswith(ENTRY))), parse_constant=int)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no such file"):
        fxcache.load(tmp_path / "absent.pt2")


def test_a_truncated_file(toy_package: Path, tmp_path: Path) -> None:
    data = toy_package.read_bytes()
    short = tmp_path / "short.pt2"
    short.write_bytes(data[: len(data) // 2])
    with pytest.raises(PackageError, match="truncated"):
        fxcache.load(short)


def test_a_damaged_file(toy_package: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(toy_package) as archive:
        largest = max(archive.infolist(), key=lambda e: e.file_size)
    data = bytearray(toy_package.read_bytes())
    data[largest.header_offset + 200] ^= 0xFF
    broken = tmp_path / "broken.pt2"
    broken.write_bytes(bytes(data))
    with pytest.raises(PackageError, match="damaged"):
        fxcache.load(broken)


def test_a_foreign_file(toy_package: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.pt2"
    foreign.write_text("not a package")
    with pytest.raises(PackageError, match="no package"):
        fxcache.load(foreign)
    with pytest.raises(PackageError, match=r"holds no fxcache\.json"):
        fxcache.load(edited(toy_package, tmp_path / "plain.pt2", None))


def test_a_newer_format(toy_package: Path, tmp_path: Path) -> None:
    newer = edited(toy_package, tmp_path / "newer.pt2", lambda f: f.update(format=99))
    with pytest.raises(PackageError, match=r"format is 99.*upgrade fxcache"):
        fxcache.load(newer)


def test_another_torch(toy_package: Path, tmp_path: Path) -> None:
    other = edited(toy_package, tmp_path / "other.pt2", lambda f: f.update(torch="1.0"))
    with pytest.raises(PackageError, match=r"compiled for torch 1\.0.*export it again"):
        fxcache.load(other)


def test_a_manifest_of_something_else(toy_package: Path, tmp_path: Path) -> None:
    for number, change in enumerate(
        (lambda f: f.pop("state"), lambda f: f.clear(), lambda f: f.update(inputs=3))
    ):
        other = edited(toy_package, tmp_path / f"{number}.pt2", change)
        with pytest.raises(PackageError, match=r"fxcache\.json is not what fxcache writes"):
            fxcache.load(other)
    more = edited(toy_package, tmp_path / "more.pt2", lambda f: f.update(remark="by hand"))
    assert fxcache.load(more).manifest.model == "ToyDiT"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hardware": {"machine": "pdp11"}}, "compiled for pdp11"),
        ({"hardware": {"vectors": "AVX512"}}, "AVX512 and this one has AVX2"),
    ],
)
def test_a_machine_of_another_kind(
    toy_package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    other = edited(toy_package, tmp_path / "other.pt2", lambda f: f.update(change))
    with pytest.raises(PackageError, match=message):
        fxcache.load(other)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_package_for_a_gpu_that_is_not_here(toy_package: Path, tmp_path: Path) -> None:
    def move(manifest: dict[str, Any]) -> None:
        for entry in (*manifest["inputs"], *manifest["state"]):
            entry["device"] = "cuda:0"

    with pytest.raises(PackageError, match="runs on a CUDA device and torch sees none here"):
        fxcache.load(edited(toy_package, tmp_path / "gpu.pt2", move))


def test_a_package_for_a_gpu_goes_to_another(toy_package: Path) -> None:
    manifest = read_manifest(toy_package)
    assert manifest.on_device(1) == manifest  # this one is for the processor
    entries = tuple(dataclasses.replace(e, device="cuda:0") for e in manifest.inputs)
    assert dataclasses.replace(manifest, inputs=entries).on_device(1).devices == {"cuda:1", "cpu"}


def test_native_code_that_does_not_load(toy_package: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pt2"
    with zipfile.ZipFile(toy_package) as source, zipfile.ZipFile(broken, "w") as copy:
        for name in source.namelist():
            copy.writestr(name, b"no library" if name.endswith(".so") else source.read(name))
    with pytest.raises(PackageError, match="native code does not load here"):
        fxcache.load(broken)


def test_inputs_that_the_package_was_not_exported_for(toy_package: Path) -> None:
    package = fxcache.load(toy_package)
    x, t = latents(1, 0, batch=2)[0], torch.ones(2)
    for arguments, message in (
        ({"hidden_states": x}, "'timestep' is missing"),
        (
            {"hidden_states": x.double(), "timestep": t},
            "dtype torch.float64; the package takes torch.float32",
        ),
        ({"hidden_states": x.to_sparse(), "timestep": t}, "has layout torch.sparse_coo"),
        ({"hidden_states": x[0], "timestep": t}, "has 2 dimensions; the package takes 3"),
        ({"hidden_states": x[..., :4], "timestep": t}, "has shape"),
        ({"hidden_states": x.tolist(), "timestep": t}, "must be a tensor, not list"),
        ({"hidden_states": x, "timestep": torch.ones(3)}, "do not fulfil|has shape"),
    ):
        with pytest.raises(PackageInputError, match=message):
            package(**arguments)
    for args, arguments, message in (
        ((x, t, None), {}, "takes 2 arguments and 3 were given"),
        ((x, t), {"timestep": t}, "'timestep' is given twice"),
        ((x, t), {"prompt": x}, "no input prompt"),
    ):
        with pytest.raises(ArgumentsError, match=message):
            package(*args, **arguments)


def test_an_export_that_cannot_work(tmp_path: Path) -> None:
    cached = fxcache.transform(toy(), "F1B0_W2M0MC0_T0O1_R0.1")
    with pytest.raises(ExportError, match=r"must end in \.pt2"):
        fxcache.export(
            cached, tmp_path / "toy.onnx", {"hidden_states": latents(1, 0)[0], "timestep": torch.ones(1)}
        )


class Selects(Base):
    """Its blocks see the tokens that a mask selects, however many these are."""

    def forward(self, x: Tensor, timestep: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        tokens = x.flatten(0, 1)
        return tokens.masked_scatter(mask[:, None], super().forward(tokens[mask], timestep))


def selecting() -> dict[str, Tensor]:
    mask = torch.tensor([True, False, True, True, False])
    return {"x": latents(1, 0)[0], "timestep": torch.ones(1), "mask": mask}


@pytest.mark.skipif(not COPIES_UNKNOWN_SIZES, reason="with torch 2.11 it is not captured")
def test_state_whose_shape_depends_on_values_is_not_exported(tmp_path: Path) -> None:
    cached = fxcache.transform(build(Selects), "F1B0_W0M0MC0_T0O1_R1000")
    with pytest.raises(ExportError, match=r"what it remembers \(previous_0.*depend on values"):
        fxcache.export(cached, tmp_path / "selects.pt2", selecting())


@pytest.mark.skipif(COPIES_UNKNOWN_SIZES, reason="since torch 2.12 it is captured")
@pytest.mark.filterwarnings("ignore::fxcache.errors.PassthroughWarning")
def test_state_whose_shape_depends_on_values_says_which_torch_takes_it() -> None:
    cached = fxcache.transform(build(Selects), "F1B0_W0M0MC0_T0O1_R1000")
    with torch.no_grad(), pytest.raises(UnknownSizeError, match=r"use torch 2\.12 or later"):
        cached(**selecting())
    passed = fxcache.transform(build(Selects), "F1B0_W0M0MC0_T0O1_R1000", on_unsupported="passthrough")
    with torch.no_grad():
        assert torch.equal(passed(**selecting()), build(Selects)(**selecting()))


def test_size_expressions_are_arithmetic_only() -> None:
    sizes = {"s0": 8, "s1": 3}
    for expression, value in (
        (7, 7),
        ("(s0 // 2) * s1 + max(s0, 3)", 20),
        ("-s1 + 2 ** s1", 5),
        ("Min(s0, s1, 5)", 3),
        ("math.trunc(torch.sym_float(s0 * 2 + 1) ** 0.5)", 4),  # `int(tokens**0.5)`, as DiT has it
        ("math.ceil(torch._sym_sqrt(s0)) + abs(-s1 / 2)", 4.5),
    ):
        assert size_function(expression)(sizes) == value
    for condition, holds in (
        ("s0 % 2 == 0 and not s0 < 4", True),
        ("s0 % 2 == 1 or s1 != 3", False),
        ("(s0) == (s1)", False),
        ("s0 >= s1", True),
    ):
        assert bool(size_function(condition)(sizes)) is holds
    with pytest.raises(KeyError):
        size_function("s0 + u0")(sizes)


@pytest.mark.parametrize(
    "attack",
    [
        "__import__('os')", "s0.__class__", "[1][0]", "open('x')", "s0 if s1 else 0", "max(s0, key=s1)",
        "max(*s0)", "'s0'", "(lambda: s0)()", "s0 := 3", "s0 +", "",
        "os.system('x')", "math.exp(1)", "(" * 5000, "-" * 50000 + "1", None, 1.5,
    ],
)  # fmt: skip
def test_what_is_no_size_expression(attack: Any) -> None:
    with pytest.raises(ValueError, match="not a size expression"):
        size_function(attack)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f["conditions"].append("__import__('os').abort()"),
        lambda f: f["conditions"].append("s0 =="),
        lambda f: f["state"][0].update(shape=["open('x')"]),
    ],
)
def test_a_package_whose_sizes_are_no_expressions_is_refused_when_it_is_loaded(
    toy_package: Path, tmp_path: Path, change: Any
) -> None:
    with pytest.raises(PackageError, match="is not what fxcache writes"):
        fxcache.load(edited(toy_package, tmp_path / "other.pt2", change))
