"""Small models whose cache can be worked out by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ToyBlock(nn.Module):
    """One residual block on one stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)

    def forward(self, hidden_states: Tensor, temb: Tensor) -> Tensor:
        return hidden_states + torch.tanh(self.mix(hidden_states) + temb)


class ToyDiT(nn.Module):
    """A single-stream transformer: embed, blocks, head."""

    def __init__(self, blocks: int = 4, width: int = 8) -> None:
        super().__init__()
        self.embed = nn.Linear(width, width)
        self.blocks = nn.ModuleList(ToyBlock(width) for _ in range(blocks))
        self.head = nn.Linear(width, width)

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        hidden_states = self.embed(hidden_states)
        temb = torch.sin(timestep.to(hidden_states.dtype)).reshape(-1, 1, 1)
        for block in self.blocks:
            hidden_states = block(hidden_states, temb)
        return self.head(hidden_states)


class ToyDual(nn.Module):
    """Two streams of equal shape that come out in the other order, with glue between the blocks."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(width, width), nn.Linear(width, width)

        def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> tuple[Tensor, Tensor]:
            mixed = self.a(hidden_states) + self.b(encoder_hidden_states)
            return encoder_hidden_states + mixed.cos(), hidden_states + mixed.sin()

    def __init__(self, blocks: int = 4, width: int = 8) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(self.Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, width)

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, extra: Tensor
    ) -> Tensor:
        for i, block in enumerate(self.blocks):
            encoder_hidden_states, hidden_states = block(hidden_states, encoder_hidden_states)
            if i % 2 == 0:
                hidden_states = hidden_states + extra * timestep.reshape(-1, 1, 1)
        return self.head(hidden_states)


class ToyRotary(nn.Module):
    """Hard on a compiler: a stream laid out across as a patch embedding gives it, complex rotations, and a
    size that is computed from one of the inputs'."""

    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.mix = nn.Linear(width, width)

        def forward(self, hidden_states: Tensor, rotation: Tensor) -> Tensor:
            pairs = torch.view_as_complex(self.mix(hidden_states).unflatten(-1, (-1, 2)))
            return hidden_states + torch.tanh(torch.view_as_real(pairs * rotation).flatten(-2))

    def __init__(self, blocks: int = 4, width: int = 8) -> None:
        super().__init__()
        self.patch = nn.Conv1d(width, width, kernel_size=2, stride=2)
        self.blocks = nn.ModuleList(self.Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, width)

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        hidden_states = self.patch(hidden_states.transpose(1, 2)).transpose(1, 2)
        angles = torch.arange(hidden_states.shape[1])[:, None] / torch.arange(
            1, hidden_states.shape[2] // 2 + 1
        )
        rotation = torch.view_as_complex(torch.stack((angles.cos(), angles.sin()), -1))
        for block in self.blocks:
            hidden_states = block(hidden_states, rotation)
        return self.head(hidden_states * timestep.reshape(-1, 1, 1).cos())


def toy(blocks: int = 4, width: int = 8, seed: int = 0) -> ToyDiT:
    """A `ToyDiT` with fixed random weights, ready for inference."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ToyDiT(blocks, width).eval().requires_grad_(False)


def dual(blocks: int = 4, width: int = 8, seed: int = 0) -> ToyDual:
    """A `ToyDual` with fixed random weights, ready for inference."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ToyDual(blocks, width).eval().requires_grad_(False)


def rotary(blocks: int = 4, width: int = 8, seed: int = 0) -> ToyRotary:
    """A `ToyRotary` with fixed random weights, ready for inference."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ToyRotary(blocks, width).eval().requires_grad_(False)


def latents(steps: int, seed: int, batch: int = 1, tokens: int = 5, width: int = 8) -> list[Tensor]:
    """Slowly drifting inputs of a trajectory, [batch, tokens, width] each."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(batch, tokens, width, generator=generator)
    drift = torch.randn(batch, tokens, width, generator=generator)
    return [start + 0.05 * i * drift for i in range(steps)]


def timesteps(steps: int, batch: int = 1) -> list[Tensor]:
    """Falling timesteps, [batch] each."""
    return [torch.full((batch,), 1000.0 * (1 - i / steps)) for i in range(steps)]
