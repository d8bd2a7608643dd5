"""A sound as a picture."""

from __future__ import annotations

import matplotlib
import numpy as np
import torch

WINDOW = 1024  # samples of a column, where the sound is long enough
RANGE = 80.0  # dB between black and white


def spectrogram(sound: np.ndarray, peak: float | None = None) -> np.ndarray:
    """The mean of the channels [C, T] as uint8 [frequencies, columns, 3], low frequencies at the bottom.

    Args:
        peak: the magnitude that is white; by default the sound's own greatest.

    Example:
        >>> import numpy
        >>> from fxcache.gallery.spectrogram import spectrogram
        >>> spectrogram(numpy.sin(numpy.arange(8192.0))[None]).shape
        (513, 33, 3)
    """
    size = magnitude(sound)
    top = peak or float(size.max()) or 1.0
    decibels = 20 * np.log10(np.maximum(size / top, 10 ** (-RANGE / 20)))
    colors = matplotlib.colormaps["magma"](1 + decibels / RANGE, bytes=True)[..., :3]
    return np.ascontiguousarray(colors[::-1])


def magnitude(sound: np.ndarray) -> np.ndarray:
    """Of the short-time Fourier transform of the mean of the channels: [frequencies, columns].

    Example:
        >>> import numpy
        >>> from fxcache.gallery.spectrogram import magnitude
        >>> magnitude(numpy.ones((2, 8192))).argmax(0).max().item()
        0
    """
    mono = torch.from_numpy(np.ascontiguousarray(sound)).float().mean(0)
    window = WINDOW
    while window > 16 and window * 8 > mono.numel():  # at least some columns
        window //= 2
    if mono.numel() < window:
        mono = torch.nn.functional.pad(mono, (0, window - mono.numel()))
    found = torch.stft(
        mono, window, hop_length=window // 4, window=torch.hann_window(window), return_complex=True
    )
    return found.abs().numpy()
