"""`fxcache export` of any diffusers transformer, from its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

import fxcache
from fxcache.cli import main
from tests.behaviour.zoo import find


def export(*words: object) -> Result:
    return CliRunner().invoke(main, ["export", *map(str, words)])


@pytest.mark.full
def test_a_folder_becomes_a_package(tmp_path: Path) -> None:
    model, inputs = find("FluxTransformer2DModel").build()
    model.save_pretrained(tmp_path / "flux")  # type: ignore[operator]
    shapes = [f"{name}={'x'.join(map(str, t.shape))}" for name, t in inputs.items() if torch.is_tensor(t)]
    words = [w for shape in shapes for w in ("--input", shape)]
    path = tmp_path / "flux.pt2"
    config = "F1B0_W2M0MC2_T1O1_R1000"
    done = export(
        path, "--model", tmp_path / "flux", *words, "--arg", "return_dict=false", "--config", config
    )
    assert done.exit_code == 0, done.output
    package, module = fxcache.load(path), fxcache.transform(model, config)
    for i in range(6):
        call = {**inputs, "timestep": torch.full_like(inputs["timestep"], 0.9 - i / 10), "return_dict": False}
        torch.testing.assert_close(package(**call)[0], module(**call)[0], rtol=1e-4, atol=1e-4)
    assert package.stats()["default"].hits == module.stats()["default"].hits


def test_what_cannot_be_exported_is_said_in_a_line(tmp_path: Path) -> None:
    missing = export(tmp_path / "a.pt2", "--model", tmp_path, "--input", "x=1x2")
    assert missing.exit_code == 2 and "config.json does not exist" in missing.output
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "FluxTransformer2DModel"}))
    assert "--input NAME=SHAPE" in export(tmp_path / "a.pt2", "--model", tmp_path).output
    wrong = export(tmp_path / "a.pt2", "--model", tmp_path, "--input", "x=1xtwo")
    assert wrong.exit_code == 2 and "is not NAME=SHAPE" in wrong.output
    empty = export(tmp_path / "a.pt2", "--model", tmp_path, "--input", "x=1x2")
    assert empty.exit_code == 2 and "holds no weights" in empty.output
    assert (
        "not NAME=VALUE"
        in export(tmp_path / "a.pt2", "--model", tmp_path, "--input", "x=1x2", "--arg", "y").output
    )
