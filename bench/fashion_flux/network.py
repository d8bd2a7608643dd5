"""The untrained network and the optimizers that train it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers.models import FluxTransformer2DModel
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


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


def new_transformer() -> FluxTransformer2DModel:
    """FLUX in small: 4 double and 8 single blocks of 4 heads of 32."""
    model = FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=4,
        num_single_layers=8,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=16,
        pooled_projection_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(8, 12, 12),
    )
    _zero_init(model)
    # The fused attention kernel for bfloat16 is slow on CPUs without matrix units.
    model.set_attention_backend("_native_math")
    return model


def new_optimizers(
    model: nn.Module,
    muon_rate: float,
    adam_rate: float,
    schedule: Callable[[int], float],
    is_block_matrix: Callable[[str, nn.Parameter], bool],
) -> Optimizers:
    """Split the parameters: Muon orthogonalizes updates, which suits the blocks' matrices only."""
    muon: list[nn.Parameter] = []
    adam: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (muon if is_block_matrix(name, parameter) else adam).append(parameter)
    optimizers: tuple[torch.optim.Optimizer, ...] = (
        torch.optim.Muon(muon, lr=muon_rate),
        torch.optim.AdamW(adam, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.0, foreach=True),
    )
    return Optimizers(optimizers, tuple(LambdaLR(o, schedule) for o in optimizers))


def is_block_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter of FLUX is a matrix of its blocks."""
    return "transformer_blocks" in name and parameter.ndim == 2 and ".norm" not in name


def _zero_init(model: FluxTransformer2DModel) -> None:
    """adaLN-Zero: every block starts as the identity and the output as zero."""
    for name, parameter in model.named_parameters():
        is_modulation = "linear" in name and (".norm" in name or name.startswith("norm"))
        if is_modulation or name.startswith("proj_out"):
            nn.init.zeros_(parameter)
