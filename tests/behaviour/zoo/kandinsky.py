"""Kandinsky 5 and the super-resolution model of Kandinsky 6 (channels come last)."""

import torch
from diffusers.models import transformers

from .case import BLOCKS, Blueprint, Inputs, ZooCase, with_sizes
from .draw import Draw


def _kandinsky5_inputs(
    draw: Draw, *, batch: int = 2, frames: int = 2, height: int = 8, width: int = 12, text: int = 10
) -> Inputs:
    positions = [torch.arange(size) for size in (frames, height // 2, width // 2)]
    return {
        "hidden_states": draw.normal(batch, frames, height, width, 16),
        "encoder_hidden_states": draw.normal(batch, text, 32),
        "timestep": draw.uniform(batch) * 1000,
        "pooled_projections": draw.normal(batch, 16),
        "visual_rope_pos": positions,
        "text_rope_pos": torch.arange(text),
    }


def _kandinsky5(draw: Draw) -> Blueprint:
    config = {
        "in_visual_dim": 16,
        "in_text_dim": 32,
        "in_text_dim2": 16,
        "time_dim": 16,
        "out_visual_dim": 16,
        "patch_size": (1, 2, 2),
        "model_dim": 16,
        "ff_dim": 32,
        "num_text_blocks": 2,
        "num_visual_blocks": BLOCKS,
        "axes_dims": (2, 2, 4),
        "visual_cond": False,
        "attention_type": "regular",
    }
    return Blueprint(transformers.Kandinsky5Transformer3DModel, config, _kandinsky5_inputs(draw))


def _kandinsky6_super_resolution(draw: Draw) -> Blueprint:
    """512 tokens: the windowed attention works in 8x8 tiles of 64."""
    config = {
        "in_visual_dim": 4,
        "out_visual_dim": 8,
        "time_dim": 16,
        "patch_size": (1, 1, 1),
        "model_dim": 16,
        "ff_dim": 32,
        "num_visual_blocks": BLOCKS,
        "axes_dims": (4, 2, 2),
        "nabla_window": (3, 3, 3),
    }
    inputs = {
        "hidden_states": draw.normal(1, 2, 16, 16, 9),
        "timestep": draw.uniform(1) * 1000,
    }
    return Blueprint(transformers.Kandinsky6SRTransformer3DModel, config, inputs)


CASES: tuple[ZooCase, ...] = (
    ZooCase(
        "Kandinsky5Transformer3DModel",
        _kandinsky5,
        resize=with_sizes(_kandinsky5_inputs, batch=3, frames=3, height=12, width=8, text=7),
    ),
    ZooCase("Kandinsky6SRTransformer3DModel", _kandinsky6_super_resolution),
)
