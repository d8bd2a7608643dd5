"""`fxcache bench metrics`: real libraries, checked against their definitions."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from click.testing import CliRunner, Result
from PIL import Image

from fxcache.benchmark.errors import BenchmarkError, ImageRewardError, MissingExtraError, MissingPathError
from fxcache.benchmark.folder import RunFolder
from fxcache.benchmark.prompts import Prompt
from fxcache.benchmark.quality import clip, fid, image_reward, perceptual, pictures, pixels
from fxcache.benchmark.quality.classes import ClassJudge
from fxcache.benchmark.quality.image_reward import reward_scorer
from fxcache.benchmark.records import ContextRecord, Record, RecordFile
from fxcache.cli import main
from tests.tiny_pipelines import save_clip

CACHED = "F1B0_W2M0MC2_T0O1_R0.4"
TEXTS = ("T-shirt", "Bag", "Coat", "Dress")


def bench(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["bench", *map(str, words)])


def make_run(root: Path, model: str = "embedded", texts: tuple[str, ...] = TEXTS) -> RunFolder:
    """A run folder with drawn pictures: the plain ones noise, the cached ones the same plus a little."""
    folder = RunFolder(root)
    settings = [{"name": n, "config": {"residual_diff_threshold": 0.4}} for n in ("C0_Q0_NONE", CACHED)]
    prompts = [Prompt(i, text, i) for i, text in enumerate(texts)]
    plan = {
        "model": model,
        "sweep": "small",
        "settings": settings,
        "equal_flops": False,
        "steps": 4,
        "batch": 1,
        "prompts": [vars(p) for p in prompts],
    }
    about = {
        "command": f"fxcache bench run --out {root}",
        "versions": {"torch": "x"},
        "device": "d",
        "clock": "c",
        "models": [],
    }
    folder.begin(plan, about, resume=False)
    draw = np.random.default_rng(0)
    for prompt in prompts:
        plain = draw.integers(0, 250, (28, 28), dtype=np.uint8)
        folder.save(Image.fromarray(plain), "C0_Q0_NONE", prompt.index)
        folder.save(Image.fromarray(plain + np.uint8(5)), CACHED, prompt.index)
    context = {"cond": ContextRecord(4, (2, 3), {2: 0.1, 3: 0.2})}
    RecordFile(folder.record_folder / "0.jsonl").add(
        Record(n["name"], p.index, p.text, p.seed, 1, 4, 0.5, f, 8e9 - f, context if f < 8e9 else {})
        for n, f in zip(settings, (8e9, 4e9), strict=True)
        for p in prompts
    )
    return folder


def test_psnr_is_its_definition() -> None:
    images, references = torch.randint(0, 256, (2, 5, 3, 16, 16)).float()
    error = (images - references).square().mean((1, 2, 3))
    torch.testing.assert_close(pixels.psnr(images, references), 10 * (255**2 / error).log10())
    assert pixels.psnr(images, images).tolist() == pytest.approx([58.92] * 5, abs=0.01)


def test_ssim_sees_blur_and_not_identity() -> None:
    images = torch.randint(0, 256, (3, 1, 28, 28)).float()
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1)
    assert pixels.ssim(images, images).tolist() == pytest.approx([1.0] * 3)
    assert (pixels.ssim(blurred, images) < 0.9).all()


def test_worst_is_the_mean_of_the_lowest_twentieth() -> None:
    assert pixels.worst(torch.arange(100.0)) == 2.0
    assert pixels.worst(torch.tensor([3.0, 1.0, 2.0])) == 1.0


@pytest.mark.parametrize("rows", [20, 400])
def test_fid_agrees_with_its_formula(rows: int) -> None:
    """Also with fewer rows than features, where float32 came out negative."""
    torch.manual_seed(0)
    references = torch.randn(rows, 32) @ torch.randn(32, 32) * 3
    features = references + 0.05 * torch.randn(rows, 32) + 0.1
    x, y = features.double().numpy(), references.double().numpy()
    cx, cy = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(cx @ cy).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cx + cy - 2 * root)
    assert fid.frechet_distance(features, references) == pytest.approx(expected, rel=1e-3)
    assert fid.frechet_distance(references, references) < 1e-4


def test_class_judge_reads_levels_as_the_classifier_reads_images() -> None:
    from fxcache import embedded

    images = embedded.sample(embedded.load_pipeline(), range(10), num_inference_steps=8, guidance_scale=2.0)
    levels = (images + 1) * 127.5
    exact, merged = ClassJudge().accuracy(levels, embedded.CLASS_NAMES)
    wanted = embedded.agreement(embedded.load_classifier(), images, range(10))
    assert (exact, merged) == (wanted.exact, wanted.merged) and exact >= 0.8
    assert ClassJudge().features(levels).shape == (10, 128)


def test_metrics_of_a_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    result = bench("metrics", "--run", folder.root)
    assert result.exit_code == 0, result.output
    assert f"made by: fxcache bench metrics --run {folder.root}" in result.output
    assert "not measured: CLIP_SCORE: name a folder of a CLIP model with --clip-model" in result.output
    found = folder.metrics()
    plain, cached = found["settings"]["C0_Q0_NONE"], found["settings"][CACHED]
    assert plain["psnr"] == pytest.approx(58.92, abs=0.01) and plain["fid"] < 1e-3
    assert cached["psnr"] == pytest.approx(10 * np.log10(255**2 / 25), abs=1e-3)
    assert set(cached) == {"psnr", "psnr_worst", "ssim", "accuracy", "accuracy_merged", "fid"}
    assert set(found["absent"]) == {"CLIP_SCORE", "IMAGE_REWARD", "LPIPS"}


def test_clip_score_of_a_run_is_the_models_cosine(tmp_path: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    folder = make_run(
        tmp_path / "run", model="/models/x", texts=("a red cat", "two dogs on a very long way home")
    )
    model = save_clip(tmp_path / "clip")
    result = bench("metrics", "--run", folder.root, "--clip-model", model)
    assert result.exit_code == 0, result.output
    found = folder.metrics()
    scores = []
    network, processor = CLIPModel.from_pretrained(model).eval(), CLIPProcessor.from_pretrained(model)
    for prompt in folder.prompts():
        image = Image.open(folder.picture(CACHED, prompt.index)).convert("RGB")
        inputs = processor(
            text=[prompt.text], images=[image], return_tensors="pt", truncation=True, max_length=16
        )
        with torch.no_grad():
            scores.append(network(**inputs).logits_per_image.item() / network.logit_scale.exp().item())
    expected = sum(max(100 * s, 0) for s in scores) / len(scores)
    assert found["settings"][CACHED]["clip_score"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert found["fid_features"] == "CLIP" and "accuracy" not in found["settings"][CACHED]


def test_clip_scores_below_zero_count_as_zero() -> None:
    images = torch.eye(2)
    assert clip.clip_score(images, torch.tensor([[-1.0, 0.0], [0.0, 0.5]])).tolist() == [0.0, 50.0]


def test_metrics_of_an_unfinished_run_say_how_to_finish(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    folder.picture(CACHED, 2).unlink()
    result = bench("metrics", "--run", folder.root)
    assert result.exit_code == 1
    assert "7 of 8 pictures are drawn; finish with: fxcache bench run --out" in result.output
    nothing = bench("metrics", "--run", tmp_path)
    assert nothing.exit_code == 1 and "make a run with: fxcache bench run" in nothing.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--clip-model", "nowhere"], "--clip-model nowhere: no config.json there"),
        (["--image-reward", "nowhere"], "--image-reward nowhere: no ImageReward.pt there"),
    ],
)
def test_a_missing_model_gets_one_line(words: list[str], says: str, tmp_path: Path) -> None:
    result = bench("metrics", "--run", make_run(tmp_path / "run").root, *words)
    assert result.exit_code == 1
    assert says in result.output.splitlines()[-1]


def test_lpips_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    _hide(monkeypatch, "lpips")
    with pytest.raises(MissingExtraError, match=r"pip install 'fxcache\[lpips\]'"):
        perceptual.load("alex")


def test_lpips_of_pictures_that_are_too_small_says_so() -> None:
    network = torch.nn.MaxPool2d(5)
    with pytest.raises(BenchmarkError, match="4x4 pixels are too few for this network; use vgg"):
        perceptual.distance(lambda a, b: network(a - b), torch.ones(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))


@pytest.mark.parametrize(("device", "says"), [("gpu", "no device of torch"), ("cuda", "no CUDA GPU here")])
def test_a_device_that_is_not_here_gets_one_line(device: str, says: str, tmp_path: Path) -> None:
    if torch.cuda.is_available() and device == "cuda":
        pytest.skip("there is a GPU")
    result = bench("metrics", "--run", tmp_path, "--device", device)
    assert result.exit_code == 2 and says in result.output.splitlines()[-1]


def _hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make an import fail as it does where a package is not installed."""
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {package!r}")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)


@pytest.fixture
def reward_model(tmp_path: Path) -> Path:
    folder = tmp_path / "ImageReward"
    folder.mkdir()
    torch.save({}, folder / "ImageReward.pt")
    (folder / "med_config.json").write_text("{}")
    return folder


def test_image_reward_without_its_environment_says_how_to_make_one(
    reward_model: Path, tmp_path: Path
) -> None:
    missing = r"No module named 'ImageReward'.*image_reward_requirements\.txt"
    with pytest.raises(ImageRewardError, match=missing), reward_scorer(reward_model, None, "cpu"):
        pass
    absent = "no such interpreter; make one with: python -m venv"
    with (
        pytest.raises(MissingPathError, match=absent),
        reward_scorer(reward_model, tmp_path / "python", "cpu"),
    ):
        pass


def test_image_reward_worker_keeps_scores_apart_from_what_the_package_prints(
    reward_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exchange with the other process, with a package of the same interface in its place."""
    package = tmp_path / "site" / "ImageReward"
    package.mkdir(parents=True)
    (package.parent / "clip.py").write_text("tokenize = None\n")
    (package / "__init__.py").write_text(
        "import os\n"
        "from clip import tokenize\n"  # as the real one does
        "def load(name, device, med_config):\n"
        "    print('load checkpoint from', name)\n"
        "    assert os.path.isfile(name) and os.path.isfile(med_config) and device == 'cpu'\n"
        "    assert os.getcwd() == os.path.dirname(name)\n"
        "    return Model()\n"
        "class Model:\n"
        "    def score(self, prompt, image):\n"
        "        return len(prompt) + os.path.getsize(image)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    path = tmp_path / "a.png"
    Image.new("L", (4, 4)).save(path)
    size = path.stat().st_size
    with reward_scorer(reward_model, Path(sys.executable), "cpu") as score:
        assert score([path] * 2, ["ab", "abc"]) == [size + 2, size + 3]
        assert score([path], [""]) == [size]  # the same process, its model loaded once
        with pytest.raises(ImageRewardError, match=r"FileNotFoundError.*absent\.png"):
            score([tmp_path / "absent.png"], ["a"])


def test_pictures_are_read_as_levels(tmp_path: Path) -> None:
    Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(tmp_path / "a.png")
    Image.new("RGBA", (4, 3), (1, 2, 3, 4)).save(tmp_path / "b.png")
    assert pictures.read(tmp_path / "a.png").tolist()[0][2] == [8, 9, 10, 11]
    assert pictures.read(tmp_path / "b.png")[:, 0, 0].tolist() == [1, 2, 3]


def test_requirements_pin_what_the_package_pins() -> None:
    text = image_reward.REQUIREMENTS.read_text()
    assert "image-reward==1.5" in text and "clip-anytorch" in text
    assert json.dumps(str(image_reward.WORKER)).endswith('image_reward_worker.py"')
