"""`fxcache doctor`: what it says is what was tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

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
