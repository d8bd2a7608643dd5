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
from tests.tiny_pipelines import save_sd3, save_wan


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


@pytest.mark.full
def test_a_pipeline_says_what_its_package_is_for(tmp_path: Path) -> None:
    folder = save_sd3(tmp_path / "sd3")
    path = tmp_path / "sd3.pt2"
    sizes = ("--height", 16, "--width", 16, "--config", "F1B0_W2M0MC2_T1O1_R1000")
    done = export(path, "--model", folder, *sizes, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["inputs"]["hidden_states"][1] == 4 and found["bytes"] == path.stat().st_size
    words = ("--model", folder, "--prompt", "a", "--steps", 4, *sizes[:4], "--package", path)
    drawn = CliRunner().invoke(main, ["sample", *map(str, words), "--out", str(tmp_path / "out"), "--json"])
    assert drawn.exit_code == 0, drawn.output
    assert json.loads(drawn.stdout)["settings"][0]["contexts"]["default"]["cached_steps"] == [2, 3]


def test_which_denoiser_of_several_must_be_said(tmp_path: Path) -> None:
    folder = save_wan(tmp_path / "wan")
    words = ("--model", folder, "--height", 16, "--width", 32, "--frames", 5, "--prompt-length", 8)
    several = export(tmp_path / "a.pt2", *words)
    assert (
        several.exit_code == 1 and "transformer, transformer_2; choose one with --component" in several.output
    )
    none = export(tmp_path / "a.pt2", *words, "--component", "vae")
    assert none.exit_code == 1 and "no denoiser 'vae'" in none.output
    both = export(tmp_path / "a.pt2", *words, "--input", "x=1x2")
    assert both.exit_code == 2 and "leave out --input" in both.output


def test_what_cannot_be_exported_is_said_in_a_line(tmp_path: Path) -> None:
    for given in ((), ("--input", "x=1x2")):
        missing = export(tmp_path / "a.pt2", "--model", tmp_path, *given)
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
