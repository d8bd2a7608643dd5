"""How a sampler makes the next latents of the last, found by regression: nothing need be known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

EXACT = 1e-3  # of the change of latents: a simpler response that leaves so little is taken
GAIN = 4.0  # how many times less a richer one must leave, in squares


@dataclass(frozen=True)
class Response:
    """How the latents of the next step follow: `own * latents + sum of gains * outputs` of this step, and the
    same of the step before, for samplers that remember it; besides what depends on neither.

    Example:
        Euler's method with a step of -0.1.

        >>> from fxcache.plans.response import Response
        >>> Response(own=1.0, gains=(-0.1,)).lagged_own
        0.0
    """

    own: float
    gains: tuple[float, ...]
    lagged_own: float = 0.0
    lagged_gains: tuple[float, ...] = ()


def responses(latents: Sequence[Tensor], outputs: Sequence[Tensor]) -> tuple[Response | None, ...]:
    """Of each step, from plain runs; None for the last, whose result the model does not see.

    The simplest that explains the runs: latents are only added to (Euler), or scaled, too (DDIM), or the
    sampler remembers a step (DPM++ 2M, UniPC).

    Args:
        latents: of each run [n, elements]. outputs: of each run [n, streams, elements].

    Example:
        >>> import torch
        >>> from fxcache.plans.response import responses
        >>> outputs = torch.randn(3, 1, 50)
        >>> latents = torch.stack([torch.randn(50)] * 3)
        >>> latents[1:] -= 0.25 * outputs[:-1, 0].cumsum(0)
        >>> first, *_ = responses([latents], [outputs])
        >>> first.own, round(first.gains[0], 5)
        (1.0, -0.25)
    """
    steps = len(latents[0])
    found = [_respond(latents, outputs, step) for step in range(steps - 1)]
    return (*found, None)


def _respond(latents: Sequence[Tensor], outputs: Sequence[Tensor], step: int) -> Response:
    streams = outputs[0].shape[1]
    width = streams + 1
    inner = sum(_inner(x, y, step) for x, y in zip(latents, outputs, strict=True))
    assert isinstance(inner, Tensor)
    moved = inner[-1, -1]
    # Columns: outputs, latents, then those of the step before, then the change to be explained.
    kinds = [list(range(streams)), list(range(width))] + ([list(range(2 * width))] if step else [])
    solved = [_solve(inner, columns) for columns in kinds]
    chosen, left = solved[0]
    for weights, less in solved[1:]:
        if left > EXACT**2 * moved and less * GAIN < left:
            chosen, left = weights, less
    full = [*chosen.tolist(), *[0.0] * (2 * width)]
    return Response(
        own=1.0 + full[streams],
        gains=tuple(full[:streams]),
        lagged_own=full[width + streams],
        lagged_gains=tuple(full[width : width + streams]),
    )


def _inner(latents: Tensor, outputs: Tensor, step: int) -> Tensor:
    before = max(step - 1, 0)
    parts = [*outputs[step], latents[step], *outputs[before], latents[before]]
    vectors = torch.stack([*parts, latents[step + 1] - latents[step]]).double()
    return vectors @ vectors.T / vectors.shape[1]


def _solve(inner: Tensor, columns: list[int]) -> tuple[Tensor, float]:
    """Weights of the columns nearest to the last one, and the mean square that is left."""
    system, right = inner[columns][:, columns], inner[columns, -1]
    scale = system.diagonal().sqrt().clamp_min(1e-30)
    weights = (
        torch.linalg.lstsq(system / scale / scale[:, None], right / scale, driver="gelsd").solution / scale
    )
    left = inner[-1, -1] - 2 * weights @ right + weights @ system @ weights
    return weights, max(float(left), 0.0)
