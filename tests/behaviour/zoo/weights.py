"""Weights for a random instance: the same on every build, and none that hides a block."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .draw import Draw


@contextmanager
def reproducible_init(seed: int) -> Iterator[None]:
    """Seed the initialisers inside, leave the global generator and settings as they were.

    Deterministic mode fills with NaN the memory that a constructor leaves uninitialised.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@torch.no_grad()
def randomise_degenerate_parameters(model: nn.Module, seed: int) -> None:
    """Draw anew each parameter that is all zeros or not finite.

    A gate initialised to zero makes its block the identity, and then no test sees the block.
    """
    draw = Draw(seed)
    for parameter in model.parameters():
        if not parameter.is_floating_point():
            continue
        if not parameter.isfinite().all() or not parameter.any():
            parameter.copy_(draw.normal(*parameter.shape) * 0.02)
