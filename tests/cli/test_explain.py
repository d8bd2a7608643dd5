"""`fxcache explain`: pipelines, folders, config.json and classes, without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

import fxcache
from fxcache.cli import main
from fxcache.preparation.conventional import conventional_call
from fxcache.preparation.sizes import Sizes
from tests.behaviour.zoo import find
from tests.tiny_pipelines import save_sd3, save_wan

# Of the zoo's settings these are served by convention alone; the others need a pipeline, or --input.
CONVENTIONAL = (
    *(
        "FluxTransformer2DModel",
        "Flux2Transformer2DModel",
        "SD3Transformer2DModel",
        "QwenImageTransformer2DModel",
    ),
    *(
        "WanTransformer3DModel",
        "LTXVideoTransformer3DModel",
        "PixArtTransformer2DModel",
        "PixArtTransformer2DModel",
    ),
    *("CogVideoXTransformer3DModel", "HunyuanVideoTransformer3DModel", "SanaTransformer2DModel"),
)


def explain(*words: object) -> Result:
    return CliRunner().invoke(main, ["explain", *map(str, words)])


def found(*words: object) -> list[dict[str, Any]]:
    result = explain(*words, "--json")
    assert result.exit_code == 0, result.output
    values: list[dict[str, Any]] = json.loads(result.stdout)
    return values


def test_a_config_alone_is_enough(tmp_path: Path) -> None:
    model, _ = find("FluxTransformer2DModel").build()
    model.save_config(tmp_path)  # type: ignore[operator]
    words = ("--config", "F1B1_W4M0MC3_T1O1_R0.12", "--height", 64, "--width", 96, "--prompt-length", 10)
    (one,) = found(tmp_path / "config.json", *words, "--dtype", "fp32", "--graph", tmp_path / "graph.dot")
    assert one["call"]["tensors"]["hidden_states"] == "[1, 24, 4] float32"  # 4 x 6 tokens of 16 pixels
    call = conventional_call(model.to("meta"), Sizes(64, 96, prompt_length=10))
    on_meta = {n: v.to("meta") if torch.is_tensor(v) else v for n, v in call.items()}
    meant = fxcache.explain(model, "F1B1_W4M0MC3_T1O1_R0.12", on_meta)
    assert (one["flops_computed"], one["flops_cached"]) == (meant.flops_computed, meant.flops_cached)
    assert one["state_bytes"] == meant.state_bytes and len(one["segments"][0]["blocks"]) == 8
    assert "digraph" in (tmp_path / "graph.dot").read_text()


@pytest.mark.parametrize("name", CONVENTIONAL)
def test_calls_by_convention(name: str) -> None:
    case = find(name)
    blueprint = case._blueprint()
    with torch.device("meta"):
        model = blueprint.model_class(**blueprint.config).eval()
    frames = 9 if "3D" in name and name != "PixArtTransformer2DModel" else None
    call = conventional_call(model, Sizes(64, 64, frames=frames))
    known = {n: v for n, v in blueprint.inputs.items() if torch.is_tensor(v) and v.is_floating_point()}
    for argument in known.keys() & call.keys():  # as many dimensions, and the same channels
        ours, theirs = call[argument].shape, known[argument].shape
        assert len(ours) == len(theirs), argument
        assert argument != "encoder_hidden_states" or ours[-1] == theirs[-1]


def test_a_pipeline_prepares_its_own_calls(tmp_path: Path) -> None:
    words = ("--height", 16, "--width", 32, "--frames", 5, "--prompt-length", 8)
    both = found(save_wan(tmp_path / "wan"), *words, "--config", "F1B0_W2M0MC2_T1O1_R0.1")
    assert [one["name"] for one in both] == ["transformer", "transformer_2"]
    for one in both:
        assert one["call"]["how"] == "as WanPipeline makes it"
        assert one["call"]["tensors"]["hidden_states"] == "[1, 4, 2, 2, 4] bfloat16"
        assert one["call"]["tensors"]["encoder_hidden_states"] == "[1, 8, 16] bfloat16"


def test_weights_of_the_denoiser_are_not_read(tmp_path: Path) -> None:
    folder = save_sd3(tmp_path / "sd3")
    for file in (folder / "transformer").glob("*.safetensors"):
        file.unlink()
    result = explain(folder, "--config", "F1B0_W2M0MC2_T1O1_R0.1", "--height", 16, "--width", 16)
    assert result.exit_code == 0, result.output
    assert "4 x transformer_blocks" in " ".join(result.stdout.split()) and "cached step" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80 and "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nowhere",), "no such folder, file or class"),
        (("AutoencoderKL",), "no such folder, file or class"),
        (("embedded", "--config", "F8B8_W8M0MC0_T0O1_R0.1"), "Fn + Bn"),
        (("embedded", "--height", "64"), "takes no --height"),
        (("PriorTransformer",), "--input NAME=SHAPE"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], says: str) -> None:
    result = explain(*words)
    assert result.exit_code == 1 and says in result.output and len(result.output.splitlines()) == 1
