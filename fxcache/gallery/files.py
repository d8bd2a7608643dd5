"""Samples as files: PNG, animated WebP, WAV."""

from __future__ import annotations

import re
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .comparison import difference, factor
from .media import Media
from .run import Drawn

FPS = 16  # of clips, for the eye: a pipeline does not say how many it was trained at
SIDE = 480  # pixels of a clip's longer side in the animation beside its cached ones
HIGHEST = 32767  # of 16 bits


def save(drawn: Sequence[Drawn], rate: float, folder: Path) -> list[Path]:
    """Every sample at its own size: folder/0-plain/0.png, folder/1-F1B0.../0.png ..."""
    files = []
    for i, one in enumerate(drawn):
        name = re.sub(r"[^\w.-]+", "-", one.name).strip("-")[:60]
        for j, media in enumerate(one.media):
            files.append(_save(media, rate, folder / f"{i}-{name}" / str(j)))
    return files


def _save(media: Media, rate: float, stem: Path) -> Path:
    stem.parent.mkdir(parents=True, exist_ok=True)
    if media.kind == "sound":
        return _wave(media.data, rate, stem.with_suffix(".wav"))
    if media.kind == "picture":
        Image.fromarray(media.data[0]).save(stem.with_suffix(".png"))
        return stem.with_suffix(".png")
    return animation(media.frames, stem.with_suffix(".webp"))


def animation(frames: Sequence[np.ndarray], out: Path) -> Path:
    """An animated WebP that repeats."""
    first, *rest = (Image.fromarray(frame) for frame in frames)
    first.save(out, save_all=True, append_images=rest, duration=round(1000 / FPS), loop=0, quality=90)
    return out


def side_by_side(plain: Drawn, drawn: Sequence[Drawn], index: int, out: Path) -> Path:
    """A clip of all settings at once: plain, each setting, and below each its difference, amplified."""
    times = factor(plain, drawn)
    clips = [one.media[index].frames for one in (plain, *drawn)]
    frames = []
    for pictures in zip(*clips, strict=True):
        rest = [difference(pictures[0], picture, times) for picture in pictures]
        frames.append(np.concatenate([np.concatenate(row, 1) for row in (pictures, rest)], 0))
    return animation([_reduced(frame, len(clips)) for frame in frames], out)


def _reduced(frame: np.ndarray, columns: int) -> np.ndarray:
    high, wide = frame.shape[:2]
    scale = SIDE / max(high / 2, wide / columns)
    if scale >= 2:
        return frame.repeat(int(scale), 0).repeat(int(scale), 1)
    if scale >= 1:
        return frame
    size = (round(wide * scale), round(high * scale))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def _wave(sound: np.ndarray, rate: float, out: Path) -> Path:
    """16 bits, as loud as it is; what is beyond -1 to 1 is clipped."""
    levels = (sound.clip(-1, 1) * HIGHEST).round().astype("<i2")
    with wave.open(str(out), "wb") as file:
        file.setnchannels(len(levels))
        file.setsampwidth(2)
        file.setframerate(max(round(rate), 1))
        file.writeframes(np.ascontiguousarray(levels.T).tobytes())
    return out
