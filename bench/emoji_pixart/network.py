"""The untrained network and the optimizers that train it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.models import PixArtTransformer2DModel
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from .conditioning import PROMPT_WIDTH
from .latents import CHANNELS, IMAGE_SIZE

_HEADS = 3
_HEAD_WIDTH = 48


@dataclass(frozen=True)
class Optimizers:
    """Muon for the blocks' matrices, AdamW for the rest, and a learning-rate schedule for each."""

    optimizers: tuple[torch.optim.Optimizer, ...]
    schedules: tuple[LambdaLR, ...]

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        for schedule in self.schedules:
            schedule.step()


def new_transformer() -> PixArtTransformer2DModel:
    """PixArt in small: 11 blocks of 3 heads of 48 on 8x8 patches of 4x4 pixels."""
    model = PixArtTransformer2DModel(
        num_layers=11,
        num_attention_heads=_HEADS,
        attention_head_dim=_HEAD_WIDTH,
        cross_attention_dim=_HEADS * _HEAD_WIDTH,
        caption_channels=PROMPT_WIDTH,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        sample_size=IMAGE_SIZE,
        patch_size=4,
    )
    _zero_init(model)
    return model


def new_optimizers(
    model: nn.Module, muon_rate: float, adam_rate: float, schedule: Callable[[int], float]
) -> Optimizers:
    """Split the parameters: Muon orthogonalizes updates, which suits the blocks' matrices only."""
    muon: list[nn.Parameter] = []
    adam: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (muon if _is_block_matrix(name, parameter) else adam).append(parameter)
    optimizers: tuple[torch.optim.Optimizer, ...] = (
        torch.optim.Muon(muon, lr=muon_rate),
        torch.optim.AdamW(adam, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.0, foreach=True),
    )
    return Optimizers(optimizers, tuple(LambdaLR(o, schedule) for o in optimizers))


def _is_block_matrix(name: str, parameter: nn.Parameter) -> bool:
    return name.startswith("transformer_blocks") and parameter.ndim == 2 and "scale_shift_table" not in name


def _zero_init(model: PixArtTransformer2DModel) -> None:
    """As PixArt starts: no cross-attention, no modulation by the time, no output."""
    for name, parameter in model.named_parameters():
        if name.startswith(("adaln_single.linear", "proj_out")) or "attn2.to_out" in name:
            nn.init.zeros_(parameter)
