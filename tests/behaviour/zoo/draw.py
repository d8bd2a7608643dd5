"""Random tensors from a private generator, so that no case touches the global one."""

import torch
from torch import Tensor


class Draw:
    """A seeded source of example tensors: one seed, one sequence of tensors."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=self._generator)

    def permutation(self, size: int) -> Tensor:
        return torch.randperm(size, generator=self._generator)

    def training_steps(self, batch: int) -> Tensor:
        """Timesteps as integers of a 1000-step noise schedule."""
        return self.integers(1000, batch)

    def rotary(self, length: int, dim: int) -> tuple[Tensor, Tensor]:
        """The cosine and sine of ``length`` rotations of ``dim // 2`` repeated angles."""
        angles = self.normal(length, dim // 2).repeat_interleave(2, dim=1)
        return angles.cos(), angles.sin()
