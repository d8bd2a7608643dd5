"""The calls of one short denoising run of a case: new latents at every step, times that fall."""

from __future__ import annotations

import torch
from torch import Tensor

from .case import Inputs, ZooCase
from .nested import map_tensors


def trajectory(case: ZooCase, steps: int) -> list[Inputs]:
    """Inputs of each step; everything but latents and times is the same object throughout."""
    _, first = case.build()
    return [_step(case, first, i, steps) for i in range(steps)]


def _step(case: ZooCase, first: Inputs, index: int, steps: int) -> Inputs:
    fresh = case.fresh_inputs(seed=index + 1)
    share = 0.9 * (1 - index / steps) + 0.05

    def at_time(old: Tensor) -> Tensor:
        unit = old.is_floating_point() and bool((old <= 1).all())
        time = share if unit else share * (case.timestep_limit - 1)
        return torch.full_like(old, time)

    inputs = dict(first)
    for name in case.latent_names:
        # close to one another, as the steps of a run are
        inputs[name] = _mixed(first[name], fresh[name])
    for name in case.timestep_names:
        inputs[name] = map_tensors(at_time, first[name])
    return inputs


def _mixed(old: object, new: object) -> object:
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        if old.is_floating_point():
            return old + 0.1 * new
        changes = (torch.arange(old.numel()) % 8 == 0).reshape(old.shape)  # some of the tokens
        return torch.where(changes, new, old)
    if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)):
        return type(old)(_mixed(a, b) for a, b in zip(old, new, strict=True))
    return new
