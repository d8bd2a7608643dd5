"""SeaCache: changes of the latents, filtered to what a denoiser at this noise level can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError
from .base import Against, Decision, Policy, Progress, Signal
from .budget import spend


@dataclass(frozen=True)
class SeaCache(Policy):
    """The sum, since the last computed step, of the relative L1 change of the filtered latents.

    The filter's gain along each axis of the grid is `(1-s) S / ((1-s)^2 S + s^2)`, `S = 1 / |frequency|^p`,
    with the noise level s; the product over axes has the mean 1. It needs no block, but the grid of the
    latents and a timestep that tells s. Source: SeaCache (arXiv 2602.18993), whose equation 7
    has the mean, and diffusers; its end steps are `last_compute_steps`, its `residual_order=1` is TaylorSeer.

    power: p. full_noise: the timestep at which s is 1: 1000 for most models, 1 for those that take fractions.
    grid: (height, width) or (frames, height, width) of latents that come as tokens, [batch, tokens,
        channels]; None where the model's first input has them: [batch, channels, (frames,) height, width].

    Raises:
        ConfigError: a field is out of range.

    Example:
        >>> import torch
        >>> from fxcache import SeaCache
        >>> from fxcache.policies.base import Progress
        >>> at = Progress(*torch.tensor([2.0, 0.0, 1.0, 500.0]))
        >>> SeaCache().view(torch.ones(1, 4, 8, 8), at).shape
        torch.Size([1, 4, 8, 8])
    """

    power: float = 3.0
    full_noise: float = 1000.0
    grid: Sequence[int] | None = None

    signal: ClassVar[Signal] = "sample"
    against: ClassVar[Against] = "last"
    memory: ClassVar[tuple[float, ...]] = (0.0,)

    def __post_init__(self) -> None:
        for name in ("power", "full_noise"):
            self._require(0 < getattr(self, name) < float("inf"), name, "must be a finite number above 0")
        if self.grid is not None:
            sizes = tuple(self.grid)
            fits = len(sizes) in (2, 3) and all(isinstance(size, int) and size > 0 for size in sizes)
            self._require(fits, "grid", "must be (height, width) or (frames, height, width)")
            object.__setattr__(self, "grid", sizes)

    def fixed_sizes(self, dimensions: int) -> Mapping[int, int]:
        return {1: math.prod(self.grid)} if self.grid is not None and dimensions == 3 else {}

    def view(self, value: Tensor, progress: Progress) -> Tensor:
        if self.grid is not None and value.dim() == 3:
            value = value.movedim(-1, 1).unflatten(-1, self.grid)
        if value.dim() not in (4, 5) or (self.grid is not None and value.dim() != 2 + len(self.grid)):
            need = f"finds no grid in latents of {value.dim()} dimensions; give SeaCache(grid=...)"
            raise ConfigError("policy", "SeaCache", need)
        axes = tuple(range(2, value.dim()))
        level = (progress.timestep / self.full_noise).clamp(1e-6, 1 - 1e-6).to(value.device)
        gain: Tensor | None = None
        for axis in axes:
            along = self._gain(value.shape[axis], level).reshape([-1 if a == axis else 1 for a in axes])
            gain = along if gain is None else gain * along
        assert gain is not None
        spectrum = torch.fft.fftn(value.to(torch.float32), dim=axes)
        return torch.fft.ifftn(spectrum * (gain / gain.mean()), dim=axes).real.to(value.dtype)

    def _gain(self, size: int, level: Tensor) -> Tensor:
        places = torch.arange(size, device=level.device)
        frequencies = torch.minimum(places, size - places) / size  # fftfreq's, without the sign
        clean = 1 / (frequencies.to(torch.float32).pow(self.power) + 1e-16)
        return (1 - level) * clean / ((1 - level) ** 2 * clean + level**2 + 1e-16)

    def decide(self, change: Tensor | None, memory: Tensor, numbers: Tensor, progress: Progress) -> Decision:
        assert change is not None
        return spend(memory, change)
