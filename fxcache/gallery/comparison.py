"""The picture to look at: plain, cached, and their difference, amplified."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .likeness import Likeness
from .media import LEVELS, Media
from .run import Drawn
from .sheet import Line, sheet
from .spectrogram import RANGE, magnitude, spectrogram

FRAMES = 8  # of a clip on its contact sheet
STRONGEST = 32  # times that a difference is amplified at most
SEEN = 99.5  # percentile of the difference that is to be white
FEW = 2  # pictures that stand in columns beside each other, not in rows
LARGE, SMALL = 400, 96  # pixels of a cell's side, at most and at least
WIDTH = 1600  # pixels of a row of pictures
SOUND = (760, 190)  # pixels of a spectrogram
DIFFERENCE = 10  # times that the difference of sounds is amplified, 20 dB


def comparison(
    title: str, prompts: Sequence[str], plain: Drawn, drawn: Sequence[Drawn], rate: float, out: Path
) -> list[Path]:
    """Draw all settings beside the plain samples. A clip has a sheet of frames of its own for each prompt.

    Args:
        rate: samples a second, of sounds. out: of the first sheet; others are named after it.
    """
    kind = plain.media[0].kind
    if kind == "picture":
        return [_pictures(title, prompts, plain, drawn, out)]
    if kind == "sound":
        return [_sounds(title, plain, drawn, rate, out)]
    files = []
    for i in range(len(plain.media)):
        named = out if i == 0 else out.with_stem(f"{out.stem}-{i}")
        what = f"{title}: {prompts[i]}" if i < len(prompts) else title
        files.append(_clip(what, i, plain, drawn, named))
    return files


def label(one: Drawn) -> tuple[str, ...]:
    """A setting in words: what it saves and what it costs."""
    found = one.likeness
    ssim = () if found.ssim is None else (f"SSIM {found.ssim:.4f}",)
    mean = "mean " if sum(e.psnr is not None for e in one.each) > 1 else ""
    quality = (f"{mean}PSNR {found.psnr:.1f} dB",) if found.psnr is not None else ("equal",)
    return (one.name, f"{one.speedup:.2f}x fewer FLOPs", *quality, *ssim)


def factor(plain: Drawn, drawn: Sequence[Drawn]) -> int:
    """How many times all differences are amplified: a power of 2, by the largest of them."""
    strong = 0.0
    for one in drawn:
        for a, b in zip(plain.media, one.media, strict=True):
            strong = max(strong, float(np.percentile(np.abs(a.data.astype(int) - b.data), SEEN)))
    times = 1
    while times < STRONGEST and 2 * times * strong <= LEVELS:
        times *= 2
    return times


def difference(plain: np.ndarray, cached: np.ndarray, times: int) -> np.ndarray:
    """uint8, black where they are equal.

    Example:
        >>> import numpy
        >>> from fxcache.gallery.comparison import difference
        >>> difference(numpy.array([9, 200], dtype=numpy.uint8), numpy.array([10, 100], numpy.uint8), 4)
        array([  4, 255], dtype=uint8)
    """
    return np.minimum(np.abs(plain.astype(int) - cached) * times, LEVELS).astype(np.uint8)


def _pictures(title: str, prompts: Sequence[str], plain: Drawn, drawn: Sequence[Drawn], out: Path) -> Path:
    before = [m.frames[0] for m in plain.media]
    times = factor(plain, drawn)
    several = len(before) > 1
    names = [_short(p) for p in prompts] if several and len(prompts) == len(before) else []
    lines = [Line(("plain", "every step computed"), before, names)]
    for one in drawn:
        after = [m.frames[0] for m in one.media]
        lines.append(Line(label(one), after, [decibels(e) for e in one.each] if several else ()))
        rest = [difference(a, b, times) for a, b in zip(before, after, strict=True)]
        lines.append(Line((f"difference x {times}",), rest))
    if not several and prompts:
        title = f"{title}: {prompts[0]}"
    upright = len(before) <= FEW
    columns = len(lines) if upright else len(before)
    side = min(max(WIDTH // columns, SMALL), LARGE)
    return sheet(title, lines, (side, side), out, upright)


def _clip(title: str, index: int, plain: Drawn, drawn: Sequence[Drawn], out: Path) -> Path:
    frames = plain.media[index].frames
    shown = sorted({round(i) for i in np.linspace(0, len(frames) - 1, min(FRAMES, len(frames)))})
    times = factor(plain, drawn)
    before = [frames[i] for i in shown]
    lines = [Line(("plain", "every step computed"), before, [f"frame {i}" for i in shown])]
    for one in drawn:
        after = [one.media[index].frames[i] for i in shown]
        rest = [difference(a, b, times) for a, b in zip(before, after, strict=True)]
        lines += [Line(label(one), after), Line((f"difference x {times}",), rest)]
    side = min(max(WIDTH // len(shown), SMALL), LARGE)
    return sheet(title, lines, (side, side), out)


def _sounds(title: str, plain: Drawn, drawn: Sequence[Drawn], rate: float, out: Path) -> Path:
    peaks = [float(magnitude(m.data).max()) or 1.0 for m in plain.media]
    samples = plain.media[0].data.shape[-1]
    axes = f"{samples / rate:.3g} s across, 0 to {rate / 2:,.5g} Hz upward, {RANGE:g} dB from black to white"
    lines = [_sound(("plain", "every step computed"), plain.media, peaks, [axes] * len(peaks))]
    for one in drawn:
        lines.append(_sound(label(one), one.media, peaks, [decibels(e) for e in one.each]))
        pairs = zip(plain.media, one.media, strict=True)
        rest = [Media("sound", DIFFERENCE * (b.data - a.data)) for a, b in pairs]
        lines.append(_sound((f"difference x {DIFFERENCE}", "on the same scale"), rest, peaks, ()))
    return sheet(title, lines, SOUND, out)


def _sound(
    text: tuple[str, ...], media: Sequence[Media], peaks: Sequence[float], captions: Sequence[str]
) -> Line:
    pictures = [_stretched(spectrogram(m.data, peak)) for m, peak in zip(media, peaks, strict=True)]
    return Line(text, pictures, captions)


def _stretched(picture: np.ndarray) -> np.ndarray:
    """To the cell, whatever its shape: the axes of a spectrogram have no common unit."""
    return np.asarray(Image.fromarray(picture).resize(SOUND, Image.Resampling.BICUBIC))


def decibels(found: Likeness) -> str:
    """Of one sample.

    Example:
        >>> from fxcache.gallery.comparison import decibels
        >>> from fxcache.gallery.likeness import Likeness
        >>> decibels(Likeness(41.26, 0.9)), decibels(Likeness(None, 1.0))
        ('41.3 dB', 'equal')
    """
    return "equal" if found.psnr is None else f"{found.psnr:.1f} dB"


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= 16 else prompt[:15] + "…"
