"""What the tests of this folder share: a small model to derive from, and plain against transformed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import fxcache

WIDTH = 8
EAGER = "F1B0_W0M0MC0_T0O1_R1000"  # caches every step but a trajectory's first
NEVER = "F1B0_W0M0MC0_T0O1_R0"  # caches nothing


class Block(nn.Module):
    """One residual block."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(x)


class Base(nn.Module):
    """Four blocks in a `ModuleList`; derive from it and override `forward`."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def build(kind: Callable[[], nn.Module], seed: int = 0) -> Any:
    """A model with fixed random weights, ready for inference."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind().eval().requires_grad_(False)


def sample(steps: int = 4, seed: int = 0, batch: int = 1, tokens: int = 5) -> list[tuple[Tensor, Tensor]]:
    """Slowly drifting inputs of one trajectory and its falling timesteps."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(batch, tokens, WIDTH, generator=generator)
    drift = torch.randn(batch, tokens, WIDTH, generator=generator)
    return [(start + 0.05 * i * drift, torch.full((batch,), 1000.0 * (1 - i / steps))) for i in range(steps)]


def equal_uncached(model: nn.Module, calls: Sequence[tuple[Any, ...]], **options: Any) -> Any:
    """Assert that with nothing cached every call is the model's, bitwise; returns the cached model."""
    cached = fxcache.transform(model, NEVER, **options)
    with torch.no_grad():
        for call in calls:
            assert torch.equal(cached(*call), model(*call))
    return cached
