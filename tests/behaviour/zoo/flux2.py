"""FLUX.2 and FLUX.3: shared modulation, four rotary axes."""

import torch
from diffusers.models import transformers
from torch import Tensor

from .case import BLOCKS, Blueprint, Inputs, ZooCase, with_sizes
from .draw import Draw

OTHER_SIZES = {"batch": 3, "height": 6, "width": 8, "text": 7}


def grid_ids(height: int = 1, width: int = 1, length: int = 1) -> Tensor:
    """(height * width * length, 4) coordinates: time, row, column, position in the text."""
    axes = (torch.arange(size) for size in (1, height, width, length))
    return torch.cartesian_prod(*axes)


def _flux2_inputs(draw: Draw, *, batch: int = 2, height: int = 4, width: int = 6, text: int = 10) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, height * width, 4),
        "encoder_hidden_states": draw.normal(batch, text, 32),
        "img_ids": grid_ids(height, width),
        "txt_ids": grid_ids(length=text),
        "timestep": draw.uniform(batch),
        "guidance": torch.ones(batch),
    }


def _flux2(draw: Draw) -> Blueprint:
    config = {
        "patch_size": 1,
        "in_channels": 4,
        "num_layers": BLOCKS,
        "num_single_layers": BLOCKS,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "timestep_guidance_channels": 256,
        "axes_dims_rope": [4, 4, 4, 4],
    }
    return Blueprint(transformers.Flux2Transformer2DModel, config, _flux2_inputs(draw))


def _flux3_inputs(draw: Draw, *, batch: int = 2, height: int = 4, width: int = 6, text: int = 10) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, height * width, 8),
        "encoder_hidden_states": draw.normal(batch, text, 32),
        "img_ids": grid_ids(height, width),
        "txt_ids": grid_ids(length=text),
        "timestep": draw.uniform(batch),
    }


def _flux3_condition_inputs(draw: Draw, *, batch: int = 2, **sizes: int) -> Inputs:
    return _flux3_inputs(draw, batch=batch, **sizes) | {
        "image_cond_hidden_states": draw.normal(batch, 3 * 4, 8),
        "image_cond_ids": grid_ids(3, 4),
    }


def _flux3_blueprint(inputs: Inputs) -> Blueprint:
    config = {
        "in_channels": 8,
        "cond_in_channels": 8,
        "num_layers": BLOCKS,
        "num_single_layers": BLOCKS,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "timestep_channels": 32,
        "axes_dims_rope": (4, 4, 4, 4),
    }
    return Blueprint(transformers.Flux3Transformer2DModel, config, inputs)


def _flux3(draw: Draw) -> Blueprint:
    return _flux3_blueprint(_flux3_inputs(draw))


def _flux3_condition(draw: Draw) -> Blueprint:
    return _flux3_blueprint(_flux3_condition_inputs(draw))


CASES: tuple[ZooCase, ...] = (
    ZooCase(
        "Flux2Transformer2DModel",
        _flux2,
        resize=with_sizes(_flux2_inputs, **OTHER_SIZES),
    ),
    ZooCase(
        "Flux3Transformer2DModel",
        _flux3,
        resize=with_sizes(_flux3_inputs, **OTHER_SIZES),
    ),
    ZooCase(
        "Flux3Transformer2DModel:cond",
        _flux3_condition,
        resize=with_sizes(_flux3_condition_inputs, **OTHER_SIZES),
    ),
)
