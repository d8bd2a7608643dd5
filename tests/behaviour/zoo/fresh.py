"""New values for some inputs of a model, with the structure, shapes and dtypes of the old ones."""

from typing import Any

from torch import Tensor

from .draw import Draw
from .nested import map_tensors


def fresh_latents(draw: Draw, old: Tensor) -> Tensor:
    """New noise; codes (integers) are shuffled instead, which keeps them inside the vocabulary."""
    if old.is_floating_point():
        return draw.normal(*old.shape).to(old.dtype)
    return old.flatten()[draw.permutation(old.numel())].view_as(old)


def fresh_timestep(draw: Draw, old: Tensor, steps: int) -> Tensor:
    """Another time: below 1 where the old one was at most 1, else below ``steps``.

    One time shared by all entries (of a batch, of the frames) stays one time shared by all.
    """
    scale = 1 if old.is_floating_point() and bool((old <= 1).all()) else steps
    shared = old.numel() > 1 and bool((old == old.flatten()[0]).all())
    shape = (1,) * old.dim() if shared else tuple(old.shape)
    times = draw.uniform(*shape) * scale
    return times.to(old.dtype).expand_as(old).contiguous()


def fresh_values(
    inputs: dict[str, Any],
    latent_names: tuple[str, ...],
    timestep_names: tuple[str, ...],
    timestep_limit: int,
    seed: int,
) -> dict[str, Any]:
    """``inputs`` with fresh latents and fresh timesteps, and everything else kept."""
    draw = Draw(seed)
    fresh = dict(inputs)
    for name in latent_names:
        fresh[name] = map_tensors(lambda old: fresh_latents(draw, old), inputs[name])
    for name in timestep_names:
        fresh[name] = map_tensors(lambda old: fresh_timestep(draw, old, timestep_limit), inputs[name])
    return fresh
