"""The measures that a report knows, in the order of its columns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A column. best: 1 where more is better, -1 where less is. alone: has the document's own table."""

    key: str
    title: str
    best: int
    digits: int
    meaning: str
    alone: bool = False

    @property
    def arrow(self) -> str:
        return f"{self.title} ({'↑' if self.best > 0 else '↓'})"


MEASURES: tuple[Measure, ...] = (
    Measure("clip_score", "CLIP_SCORE", 1, 4, "100 × cosine of picture and prompt in CLIP", alone=True),
    Measure("image_reward", "IMAGE_REWARD", 1, 4, "ImageReward of picture and prompt", alone=True),
    Measure(
        "psnr",
        "PSNR",
        1,
        2,
        "dB to the uncached picture of the same noise, mean; 58.92 is alike in every pixel",
    ),
    Measure("psnr_worst", "PSNR worst 5%", 1, 2, "dB, mean of the worst twentieth of the pictures"),
    Measure("ssim", "SSIM", 1, 4, "structural similarity to the uncached picture, mean"),
    Measure("lpips", "LPIPS", -1, 4, "perceptual distance to the uncached picture, mean"),
    Measure("fid", "FID", -1, 3, "Fréchet distance of features to the set of uncached pictures"),
    Measure("accuracy", "class", 1, 3, "share in which the embedded classifier sees the class asked for"),
    Measure("accuracy_merged", "class, tops as one", 1, 3, "the same with the four tops as one class"),
)
