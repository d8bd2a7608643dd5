"""`fxcache sample`: pictures, clips and sounds, plain and cached, and what is written of them."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from fxcache.cli import main
from tests.tiny_pipelines import save_sd3, save_stable_audio, save_wan

ALL = "F1B0_W2M0MC0_T0O1_R1000"  # every step after the second replays


def sample(*words: object) -> Result:
    return CliRunner().invoke(main, ["sample", *map(str, words)])


def done(out: Path, *words: object) -> dict[str, Any]:
    """The report of a command that went well; it is also what --json prints."""
    result = sample(*words, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    assert json.loads(result.stdout) == found
    assert all(Path(file).stat().st_size > 0 for file in found["files"])
    return found


def size(file: Path) -> tuple[int, int]:
    with Image.open(file) as picture:
        return picture.size


def test_several_settings_in_one_picture(tmp_path: Path) -> None:
    none = "F1B0_W2M0MC0_T0O1_R0"
    words = ("--steps", 5, "--guidance", 1, "--prompt", "Bag", "--prompt", "Dress")
    found = done(tmp_path, *words, "--compare", none, ALL, "P5K2")
    assert [s["setting"] for s in found["settings"]] == [none, ALL, "P5K2"]
    equal, hits, plan = found["settings"]
    assert equal["equal"] and equal["psnr"] is None and equal["flops_speedup"] == 1
    assert not hits["equal"] and 5 < hits["psnr"] < 60 and hits["ssim"] < 1 and hits["flops_speedup"] > 1.5
    assert hits["contexts"]["cond"]["cached_steps"] == [2, 3, 4]
    assert set(hits["contexts"]["cond"]["residual_diffs"]) == {"2", "3", "4"}
    assert len(plan["contexts"]["cond"]["cached_steps"]) == 3 and len(plan["samples"]) == 2
    wide, high = size(tmp_path / "comparison.png")
    assert (
        wide > 7 * 5 * 28 and high > 2 * 5 * 28
    )  # plain, and two columns for each setting, enlarged 5 times
    assert [size(file) for file in (tmp_path / "samples").glob("*/*.png")] == [(28, 28)] * 4 * 2
    assert f"--compare {none} {ALL} P5K2 --prompt Bag" in found["command"]


def test_pictures_of_a_folder(tmp_path: Path) -> None:
    model = save_sd3(tmp_path / "sd3")
    words = ("--model", model, "--prompt", "a red cat", "--steps", 4, "--height", 16, "--width", 32)
    found = done(tmp_path / "out", *words, "--config", ALL)
    assert found["kind"] == "picture" and found["settings"][0]["contexts"]["default"]["cached_steps"] == [
        2,
        3,
    ]
    (plain,) = (tmp_path / "out" / "samples" / "0-plain").iterdir()
    assert size(plain) == (32, 16)


def test_a_table_of_80_columns_without_color(tmp_path: Path) -> None:
    model = save_sd3(tmp_path / "sd3")
    result = sample(
        "--model", model, "--prompt", "a", "--steps", 3, "--config", ALL, "--out", tmp_path / "out"
    )
    assert result.exit_code == 0, result.output
    table, _ = result.stdout.split("wrote", 1)
    assert max(map(len, table.splitlines())) <= 80
    assert "\x1b" not in result.output, repr(result.output)
    assert ALL in table and "PSNR" in table and "2-" not in table and "1 (33%)" in table


def test_clips_are_animated(tmp_path: Path) -> None:
    words = (
        "--model",
        save_wan(tmp_path / "wan"),
        "--prompt",
        "a red cat",
        "--steps",
        6,
        "--prompt-length",
        8,
    )
    found = done(tmp_path / "out", *words, "--height", 16, "--width", 32, "--frames", 5, "--config", ALL)
    setting = found["settings"][0]
    assert found["kind"] == "clip"
    assert set(setting["contexts"]) == {
        f"{name}/{context}" for name in ("transformer", "transformer_2") for context in ("cond", "uncond")
    }
    with Image.open(tmp_path / "out" / "comparison.webp") as moving:
        assert moving.n_frames == 5  # type: ignore[attr-defined]
    assert len(list((tmp_path / "out" / "samples").glob("*/0.webp"))) == 2


def test_sounds_have_spectrograms(tmp_path: Path) -> None:
    words = ("--model", save_stable_audio(tmp_path / "audio"), "--prompt", "a red cat", "--steps", 4)
    found = done(tmp_path / "out", *words, "--config", ALL)
    assert found["kind"] == "sound" and found["settings"][0]["psnr"] > 0
    with wave.open(str(tmp_path / "out" / "samples" / "0-plain" / "0.wav")) as file:
        assert (file.getnchannels(), file.getframerate()) == (2, 4)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--model", "nowhere"), 1, "model_index.json"),
        (("--prompt", "a red cat"), 1, "they are T-shirt"),
        (("--config", "F8"), 1, "cannot read 'F8'"),
        (("--height", "64"), 1, "takes no --height"),
        (("--arg", "eta=1"), 1, "guidance_scale"),
        ((ALL,), 2, "--compare A B C"),
        (("--package", "nowhere.pt2"), 1, "there is no such file"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], code: int, says: str, tmp_path: Path) -> None:
    result = sample(*words, "--steps", "2", "--out", tmp_path)
    assert result.exit_code == code and says in result.output and "Traceback" not in result.output
    if code == 1:
        assert len(result.output.splitlines()) == 1
    assert not any(tmp_path.iterdir())
