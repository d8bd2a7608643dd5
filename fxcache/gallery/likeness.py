"""How alike two samples are: PSNR and SSIM as the benchmark measures them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..benchmark.quality import pixels
from ..calibration.results import psnr as psnr_of_numbers
from .media import Media
from .spectrogram import spectrogram

WINDOW = 11  # pixels a side, of SSIM


@dataclass(frozen=True)
class Likeness:
    """Of one sample to the plain one. psnr: dB, None where they are equal. ssim: None where too small.

    Of a picture and a clip (the mean of its frames) as 8-bit files; of a sound PSNR is of its samples, SSIM
    of its spectrogram.
    """

    psnr: float | None
    ssim: float | None


def likeness(plain: Media, cached: Media) -> Likeness:
    """Of one pair of samples, made of the same noise.

    Example:
        >>> import numpy
        >>> from fxcache.gallery.likeness import likeness
        >>> from fxcache.gallery.media import Media
        >>> one = Media("picture", numpy.zeros((1, 16, 16, 3), dtype=numpy.uint8))
        >>> likeness(one, one), likeness(one, Media("picture", one.data + 1)).psnr
        (Likeness(psnr=None, ssim=1.0), 48.13...)
    """
    equal = np.array_equal(plain.data, cached.data)
    if plain.kind == "sound":
        pair = [torch.from_numpy(spectrogram(m.data)).float() for m in (plain, cached)]
        levels = [image.permute(2, 0, 1)[None] for image in pair]
        (decibels,) = psnr_of_numbers(*([torch.from_numpy(m.data)] for m in (plain, cached)))
    else:
        levels = [torch.from_numpy(m.data.copy()).float().permute(0, 3, 1, 2) for m in (plain, cached)]
        decibels = pixels.psnr(*levels).mean().item()
    return Likeness(None if equal else decibels, _ssim(*levels))


def _ssim(plain: Tensor, cached: Tensor) -> float | None:
    if min(plain.shape[-2:]) < WINDOW:
        return None
    return pixels.ssim(cached, plain).mean().item()


def mean(found: Sequence[Likeness]) -> Likeness:
    """Over samples, of PSNR over those that differ.

    Example:
        >>> from fxcache.gallery.likeness import Likeness, mean
        >>> mean([Likeness(40.0, 0.5), Likeness(None, 1.0)])
        Likeness(psnr=40.0, ssim=0.75)
    """
    psnrs = [one.psnr for one in found if one.psnr is not None]
    ssims = [one.ssim for one in found if one.ssim is not None]
    return Likeness(_mean(psnrs), _mean(ssims))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
