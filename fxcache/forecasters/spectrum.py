"""Spectrum (arXiv 2603.01623): a ridge fit of Chebyshev polynomials to the last computed values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from .base import Forecaster, Times
from .taylorseer import TaylorSeer

LEAST_RIDGE = 1e-3


@dataclass(frozen=True)
class Spectrum(Forecaster):
    """`Y ~ blend * x(now)' (X'X + ridge I)^-1 X' Y + (1 - blend) * line`, with rows `x = T_0 ... T_degree`.

    `T_m` are Chebyshev polynomials of the position, from -1 at 0 to 1 at `horizon`; X has a row and Y a value
    for each of the last `order + 1` computed steps; the line is TaylorSeer of order 1. A fit of few numbers
    does not run away as a polynomial through all values does. Source: Spectrum, arXiv 2603.01623, its ridge
    regression on a Chebyshev basis, here over a window; the original fits all computed steps.

    order: one less than the number of values that are fitted. degree: of the polynomials, 1 to 8.
    ridge: 0.001 or more; below, float32 weights would be rounding. blend: 0 to 1. horizon: number of steps,
    or the first timestep with distance="timestep".

    Raises:
        ConfigError: a field is out of range.

    Example:
        >>> import torch
        >>> from fxcache import Spectrum
        >>> from fxcache.forecasters import Times
        >>> now, *past, computed = torch.tensor([6.0, 5, 3, 1, 0, 4])
        >>> Spectrum(order=2, ridge=1e-3, blend=1.0).weights(Times(now, tuple(past), computed))
        tensor([ 1.5621, -0.7240,  0.1513])
    """

    order: int = 3
    degree: int = 4
    ridge: float = 0.1
    blend: float = 0.5
    horizon: float = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.degree, bool) or not isinstance(self.degree, int) or not 1 <= self.degree <= 8:
            raise ConfigError("forecaster", self, "its degree must be 1 to 8")
        for name, fits in (
            ("ridge", self.ridge >= LEAST_RIDGE),
            ("blend", 0 <= self.blend <= 1),
            ("horizon", self.horizon > 0),
        ):
            if not (fits and math.isfinite(getattr(self, name))):
                raise ConfigError("forecaster", self, f"its {name} is out of range")

    def weights(self, times: Times) -> Tensor:
        there = [(times.computed > i).to(times.now.dtype) for i in range(self.snapshots)]
        # A row of zeros for what was not computed yet: its weight is 0.
        rows = [self._basis(position) * known for position, known in zip(times.past, there, strict=False)]
        target = self._basis(times.now)
        # X'(XX' + ridge I)^-1, the same by as many equations as there are values.
        kernel = [[(a * b).sum() for b in rows] for a in rows]
        for i in range(self.snapshots):
            kernel[i][i] = kernel[i][i] + self.ridge
        fitted = torch.stack(_solve(kernel, [(row * target).sum() for row in rows]))
        line = TaylorSeer(order=1).weights(times)
        padded = torch.cat((line, line.new_zeros(max(0, self.snapshots - 2))))
        return self.blend * fitted + (1 - self.blend) * padded

    def _basis(self, position: Tensor) -> Tensor:
        x = 2 * position / self.horizon - 1
        terms = [torch.ones_like(x), x]
        for _ in range(self.degree - 1):
            terms.append(2 * x * terms[-1] - terms[-2])
        return torch.stack(terms)


def _solve(matrix: list[list[Tensor]], right: list[Tensor]) -> list[Tensor]:
    """The solution of a few equations, positive definite, in operators that all backends have."""
    rows, right, size = [list(row) for row in matrix], list(right), len(right)
    for i in range(size):
        for j in range(i + 1, size):
            factor = rows[j][i] / rows[i][i]
            rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
            right[j] = right[j] - factor * right[i]
    found: list[Tensor] = []
    for i in reversed(range(size)):
        known = sum((rows[i][i + 1 + n] * value for n, value in enumerate(found)), torch.zeros_like(right[i]))
        found.insert(0, (right[i] - known) / rows[i][i])
    return found
