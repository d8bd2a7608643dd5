"""`cached.graph.show()`: stages, decision, state and work of each stage in a picture."""

from __future__ import annotations

import builtins
import functools
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import fxcache
from bench.overhead import inputs, network
from fxcache.errors import DrawingError
from fxcache.runtime.graph_view import CachedGraph


@functools.cache
def graph(scope: str = "model") -> CachedGraph:
    call = {**inputs(64, 16), "timestep": torch.ones(1)}
    model = network(32, 19, 38)
    cached = fxcache.transform(model, "F2B1_W4M0MC3_T1O1_R0.12", scope=scope, example_inputs=call)
    return cached.graph


def test_stages_blocks_decision_state_and_work_are_in_it(tmp_path: Path) -> None:
    text = graph().show(tmp_path / "flux.dot").read_text()
    assert re.search(r"front: [\d.]+ MFLOPs.*transformer_blocks 0-1 \(2 blocks\)", text)
    compute = r"transformer_blocks 2-18 \(17 blocks\)\\lsingle_transformer_blocks 0-36 \(37 blocks\)"
    assert re.search(r"compute: [\d.]+ MFLOPs.*" + compute, text)
    assert re.search(r"back: [\d.]+ MFLOPs.*single_transformer_blocks 37", text)
    assert re.search(r"skip: 0 FLOPs.*TaylorSeer", text)
    assert "residual diff < 0.12" in text
    assert re.search(r"state: 0\.\d+ MiB a context.*previous_0: f32\[1, s0, 32\].*history_1: f32\[2", text)
    assert text.count("shape=box") == 1
    assert len(text.splitlines()) < 40


def test_every_segment_has_a_decision(tmp_path: Path) -> None:
    text = graph("list").show(tmp_path / "flux.gv").read_text()
    assert text.count("shape=diamond") == 2
    assert "compute_1 -> join_1" in text


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz's dot is not installed")
@pytest.mark.parametrize("kind", ["svg", "png"])
def test_it_is_a_picture(kind: str, tmp_path: Path) -> None:
    content = graph().show(tmp_path / f"flux.{kind}").read_bytes()
    assert b"<svg" in content if kind == "svg" else content.startswith(b"\x89PNG")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DrawingError, match=r"name it \.svg"):
        graph().show(tmp_path / "flux.xyz")


def test_what_to_install_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DrawingError, match=r"'dot' is not installed\. Install graphviz itself"):
        graph().show(tmp_path / "flux.svg")
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "graphviz":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(DrawingError, match=r"pip install 'fxcache\[draw\]'"):
        graph().show(tmp_path / "flux.svg")
