"""The benchmark on a diffusers pipeline folder: the whole way from prompts to a report."""

from __future__ import annotations

from pathlib import Path

import pytest

from fxcache.benchmark.folder import RunFolder
from tests.benchmark.test_metrics import bench
from tests.tiny_pipelines import save_clip, save_sd3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sd3(tmp_path_factory.mktemp("sd3") / "model")


def test_a_pipeline_folder_is_run_measured_and_reported(model: Path, tmp_path: Path) -> None:
    prompts, sweep, out = tmp_path / "prompts.txt", tmp_path / "sweep.yaml", tmp_path / "run"
    prompts.write_text("a red cat\ntwo dogs\nthe sea\n")
    sweep.write_text("settings: [C0_Q0_NONE, F1B0_W2M0MC0_T0O1_R9]\n")
    words = ["run", "--sweep", sweep, "--model", model, "--prompts", prompts, "--steps", "5", "--out", out]
    ran = bench(*words, "--arg", "height=16", "--arg", "width=16", "--arg", "guidance_scale=3.0")
    assert ran.exit_code == 0, ran.output
    records = RunFolder(out).records()
    hit = records["F1B0_W2M0MC0_T0O1_R9", 2]
    assert [c.cached_steps for c in hit.contexts.values()] == [(2, 3, 4)]
    assert hit.batch == 1 and hit.text == "the sea" and hit.flops_saved
    measured = bench("metrics", "--run", out, "--clip-model", save_clip(tmp_path / "clip"))
    assert measured.exit_code == 0, measured.output
    reported = bench("report", "--run", out)
    assert reported.exit_code == 0, reported.output
    text = (out / "report" / "tables.md").read_text()
    assert "- CLIP Score (↑)\n\n| Config | CLIP_SCORE | Cached | Latency(s) |" in text
    assert "StableDiffusion3" not in text and "SD3Transformer2DModel" in text


def test_a_pipeline_without_prompts_asks_for_them(model: Path, tmp_path: Path) -> None:
    result = bench("run", "--model", model, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "give a file of them with --prompts FILE" in result.output.splitlines()[-1]
