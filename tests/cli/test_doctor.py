"""`fxcache doctor`: what it says is what was tried."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from fxcache.backends import absent_gpu
from fxcache.cli import main, probes


def doctor(*words: object) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(main, ["doctor", "--json", *map(str, words)])
    return result.exit_code, json.loads(result.stdout)


def test_versions_and_what_works() -> None:
    code, found = doctor()
    assert code == 0 and found["versions"]["torch"] == {"supported": True, "version": torch.__version__}
    works = {one["name"]: one["works"] for one in found["works"]}
    assert works["cache, plans, calibration"]
    assert works["CUDA graphs (reduce-overhead)"] == torch.cuda.is_available()


def test_no_compiler_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    found = {one.name: one for one in probes.works()}["compile, export for CPU"]
    assert not found.works and "install g++" in found.detail


def test_a_compiler_that_fails_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'x.cpp:1: fatal error: Python.h: No such file' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    found = {one.name: one for one in probes.works()}["compile, export for CPU"]
    assert not found.works and "install python3-dev" in found.detail


def test_a_version_that_is_not_supported_is_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    known = probes.installed
    monkeypatch.setattr(probes, "installed", lambda name: "0.1" if name == "diffusers" else known(name))
    code, found = doctor()
    assert code == 1 and not found["versions"]["diffusers"]["supported"]


def test_a_package_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "no.pt2").write_bytes(b"nothing")
    code, found = doctor("--package", tmp_path / "no.pt2")
    assert code == 1 and not found["works"][-1]["works"] and "no.pt2" in found["works"][-1]["detail"]


def named(name: str) -> probes.Found:
    return {one.name: one for one in probes.works()}[name]


@pytest.mark.skipif(torch.version.cuda is not None, reason="a CUDA build of torch")
def test_without_a_cuda_build_no_absent_gpu_is_a_target() -> None:
    found = named("export --device cuda --arch")
    assert not found.works and "CUDA build" in found.detail


def test_targets_are_those_that_are_assembled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(probes, "builds_for_cuda", lambda: True)
    monkeypatch.setattr(probes, "cuda_header", lambda: None)
    assert "set CUDA_HOME" in named("export --device cuda --arch").detail
    monkeypatch.setattr(probes, "cuda_header", lambda: tmp_path / "cuda.h")
    shown = "                        'sm_75','sm_80','sm_86',\n        'sm_89','sm_90a'.\n"
    assembler = tmp_path / "ptxas"
    assembler.write_text(f"#!/bin/sh\ncat <<'END'\n{shown}END\n")
    assembler.chmod(0o755)
    monkeypatch.setattr(absent_gpu, "ptxas", lambda _: str(assembler))
    found = named("export --device cuda --arch")
    assert found.works and found.detail == f"sm_80, sm_89, with the toolkit of {tmp_path / 'cuda.h'}"
    monkeypatch.setattr(absent_gpu, "ptxas", lambda _: None)
    assert "assembles for none" in named("export --device cuda --arch").detail


def test_what_the_report_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "adjustText" else find(name)
    )
    found = named("fxcache bench metrics, report")
    assert not found.works and "needs adjustText: pip install 'fxcache[bench]'" in found.detail
