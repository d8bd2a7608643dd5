"""`fxcache bench metrics`: everything that can be measured of a run's pictures."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from ..devices import accelerator
from .equal_flops import mean_flops, plain_rows
from .errors import MissingExtraError, NoRunError
from .folder import RunFolder
from .machine import command
from .progress import say
from .prompts import Prompt
from .quality import clip, fid, perceptual, pictures, pixels
from .quality.classes import ClassJudge
from .quality.image_reward import Scorer, reward_scorer
from .subject import EMBEDDED
from .sweep import BASELINE

Values = dict[str, float]


@dataclass(frozen=True)
class MetricOptions:
    """The options of `fxcache bench metrics`, as typed."""

    root: Path
    clip_model: Path | None = None
    image_reward: Path | None = None
    image_reward_python: Path | None = None
    lpips: str | None = None
    device: str | None = None

    @property
    def where(self) -> str:
        """The device that measures run on."""
        return self.device or accelerator() or "cpu"

    def command(self) -> str:
        options: list[tuple[str, object]] = [
            ("--run", self.root),
            ("--clip-model", self.clip_model),
            ("--image-reward", self.image_reward),
            ("--image-reward-python", self.image_reward_python),
            ("--lpips", self.lpips),
            ("--device", self.device),
        ]
        return command("bench", "metrics", options=options)


def measure(options: MetricOptions) -> None:
    """Measure every setting of a whole run; write `metrics.json`.

    Raises `NoRunError` where pictures are missing, and what the measures that were asked for raise.
    """
    folder = RunFolder(options.root)
    settings = complete_settings(folder)
    for package in ("torchmetrics", "scipy"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("fxcache bench metrics", package, "bench")
    console = Console()
    with _reward(options) as reward:
        meter = Meter(folder, options, reward)
        found = {name: meter.setting(name) for name in track(settings, "measuring", console=console)}
    folder.save_metrics(
        {
            "command": options.command(),
            "reference": BASELINE.name,
            "fid_features": meter.features_of,
            "settings": found,
            "psnr_of_pictures": meter.psnr_of_pictures,
            "absent": meter.absent(),
        }
    )
    for name, why in meter.absent().items():
        say(console, f"not measured: {name}: {why}")
    say(console, f"wrote {folder.root}; made by: {options.command()}")
    say(console, f"next: fxcache bench report --run {folder.root}")


def _reward(options: MetricOptions) -> contextlib.AbstractContextManager[Scorer | None]:
    if options.image_reward is None:
        return contextlib.nullcontext()
    return reward_scorer(options.image_reward, options.image_reward_python, options.where)


def complete_settings(folder: RunFolder) -> list[str]:
    """Names of all settings of a run that is whole, in order. Raises `NoRunError`."""
    about = folder.about()
    plan, records = about["plan"], folder.records()
    names = [s["name"] for s in plan["settings"]]
    if plan["equal_flops"]:
        flops = mean_flops(records.values())
        names += [s.name for s in plain_rows(flops, plan["steps"], plan.get("solvers", ()))]
    wanted = [(name, p["index"]) for name in names for p in plan["prompts"]]
    drawn = sum(key in records for key in wanted)
    if drawn < len(wanted):
        why = f"{drawn} of {len(wanted)} pictures are drawn; finish with: {about['command']} --resume"
        raise NoRunError(folder.root, why)
    return names


class Meter:
    """Measures one setting after the other; the uncached pictures are read once."""

    def __init__(self, folder: RunFolder, options: MetricOptions, reward: Scorer | None) -> None:
        self._folder = folder
        self._prompts: Sequence[Prompt] = folder.prompts()
        self._texts = [p.text for p in self._prompts]
        embedded = folder.about()["plan"]["model"] == EMBEDDED
        self._judge = ClassJudge() if embedded else None
        self._clip = (
            clip.ClipScorer(options.clip_model, torch.device(options.where)) if options.clip_model else None
        )
        self._lpips: Any = perceptual.load(options.lpips) if options.lpips else None
        self._reward = reward
        self._references: torch.Tensor | None = None
        self.psnr_of_pictures: dict[str, list[float]] = {}
        self.features_of = "embedded classifier" if embedded else "CLIP" if self._clip else None

    def setting(self, name: str) -> Values:
        """All measures of one setting."""
        paths = [self._folder.picture(name, p.index) for p in self._prompts]
        return self._of_pixels(name, paths) | self._of_prompts(paths) | self._of_features(paths)

    def absent(self) -> dict[str, str]:
        """What was not measured, and what would do it."""
        why = {
            "CLIP_SCORE": None if self._clip else "name a folder of a CLIP model with --clip-model",
            "IMAGE_REWARD": None if self._reward else "name its folder with --image-reward",
            "LPIPS": None if self._lpips else "ask for it with --lpips (pip install 'fxcache[lpips]')",
            "FID": None if self.features_of else "it uses CLIP's features: name a folder with --clip-model",
        }
        return {name: reason for name, reason in why.items() if reason}

    def _of_pixels(self, name: str, paths: Sequence[Path]) -> Values:
        decibels, similar, distances = [], [], []
        for path, prompt in zip(paths, self._prompts, strict=True):
            image = pictures.read(path)[None]
            reference = pictures.read(self._folder.picture(BASELINE.name, prompt.index))[None]
            decibels.append(pixels.psnr(image, reference))
            similar.append(pixels.ssim(image, reference))
            if self._lpips is not None:
                distances.append(perceptual.distance(self._lpips, image, reference))
        psnr = torch.cat(decibels)
        self.psnr_of_pictures[name] = [round(v, 3) for v in psnr.tolist()]
        found = {
            "psnr": psnr.mean().item(),
            "psnr_worst": pixels.worst(psnr),
            "ssim": torch.cat(similar).mean().item(),
        }
        return found | ({"lpips": torch.cat(distances).mean().item()} if distances else {})

    def _of_prompts(self, paths: Sequence[Path]) -> Values:
        found: Values = {}
        if self._reward is not None:
            scores = self._reward(paths, self._texts)
            found["image_reward"] = sum(scores) / len(scores)
        if self._judge is not None:
            levels = pictures.read_all(paths)
            found["accuracy"], found["accuracy_merged"] = self._judge.accuracy(levels, self._texts)
        return found

    def _of_features(self, paths: Sequence[Path]) -> Values:
        found: Values = {}
        features: torch.Tensor | None = None
        if self._clip is not None:
            features, prompts = self._clip.embed(paths, self._texts)
            found["clip_score"] = clip.clip_score(features, prompts).mean().item()
        if self._judge is not None:
            features = self._judge.features(pictures.read_all(paths))
        if features is None:
            return found
        if self._references is None:  # the baseline comes first
            self._references = features
        if len(features) > 1:
            found["fid"] = fid.frechet_distance(features, self._references)
        return found
