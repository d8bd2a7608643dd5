"""What a form is: a model, its calls along a trajectory, and what fxcache is to find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

STEPS = 7
CACHING = "F1B1_W1M0MC2_T1O1_R1000"
EXACT = "F1B1_W1M0MC2_T1O1_R0"  # caches nothing
HITS = (False, True, True, False, True, True, False)
SYMBOLIC, REAL = "sizes kept symbolic", "on real tensors"

Call = dict[str, Any]


@dataclass(frozen=True)
class Form:
    """One way to write a model.

    build: makes the model. call: the arguments of a call, a share of the way from noise (0) to picture (1).
    captured: how, as `explain` says in words. free: sizes that stay dynamic. blocks: how many there are.
    unless: what `explain` says is in the way of a symbolic capture, in part; "" where nothing is.
    options: of `transform` and `explain`. method: which of the model's methods is called.
    """

    build: Callable[[], nn.Module]
    call: Callable[[float], Call]
    blocks: int
    captured: str = SYMBOLIC
    free: tuple[str, ...] = ()
    unless: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    method: str = "forward"

    def model(self) -> nn.Module:
        """Its model with fixed random weights, ready for inference."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.build().eval().requires_grad_(False)

    def calls(self, steps: int = STEPS) -> list[Call]:
        """Those of a trajectory."""
        return [self.call(step / steps) for step in range(steps)]


def drift(done: float, *shape: int, seed: int = 0) -> Tensor:
    """A sample some way from one fixed random tensor towards another."""
    generator = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, *shape, generator=generator)
    return start + 0.3 * done * end


def fixed(*shape: int, seed: int = 1) -> Tensor:
    """A random tensor, the same on every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def frequencies(time: Tensor, width: int) -> Tensor:
    """Sines and cosines of a time, [batch] -> [batch, width]."""
    rates = torch.exp(-torch.arange(width // 2, dtype=torch.float32, device=time.device))
    angles = time[:, None].float() * rates[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def alike(a: Any, b: Any) -> bool:
    """Whether two results are of one structure and equal bit by bit."""
    (ours, structure), (theirs, other) = pytree.tree_flatten(a), pytree.tree_flatten(b)
    return structure == other and all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))
