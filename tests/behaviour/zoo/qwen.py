"""Qwen-Image, its edit models and the models derived from it."""

from typing import Any

import torch
from diffusers.models import transformers

from .case import BLOCKS, Blueprint, Config, Inputs, ZooCase, with_sizes
from .draw import Draw

OTHER_SIZES = {"batch": 3, "height": 6, "width": 8, "text": 7}


def _config(**changes: Any) -> Config:
    config = {
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": BLOCKS,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 16,
        "guidance_embeds": False,
        "axes_dims_rope": (8, 4, 4),
    }
    return config | changes


def _inputs(draw: Draw, *, batch: int = 2, height: int = 4, width: int = 6, text: int = 10) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, height * width, 16),
        "encoder_hidden_states": draw.normal(batch, text, 16),
        "encoder_hidden_states_mask": torch.ones(batch, text, dtype=torch.long),
        "timestep": draw.uniform(batch),
        "img_shapes": [[(1, height, width)]] * batch,
    }


def _qwen(draw: Draw) -> Blueprint:
    return Blueprint(transformers.QwenImageTransformer2DModel, _config(), _inputs(draw))


def _edit_inputs(draw: Draw, *, batch: int = 2, height: int = 4, width: int = 6, text: int = 10) -> Inputs:
    inputs = _inputs(draw, batch=batch, height=height, width=width, text=text)
    return inputs | {
        "hidden_states": draw.normal(batch, height * width + 3 * 4, 16),
        "img_shapes": [[(1, height, width), (1, 3, 4)]] * batch,
    }


def _edit(draw: Draw) -> Blueprint:
    config = _config(zero_cond_t=True)
    return Blueprint(transformers.QwenImageTransformer2DModel, config, _edit_inputs(draw))


def _controlnet_inputs(
    draw: Draw, *, batch: int = 2, height: int = 4, width: int = 6, text: int = 10
) -> Inputs:
    inputs = _inputs(draw, batch=batch, height=height, width=width, text=text)
    samples = [draw.normal(batch, height * width, 32) for _ in range(2)]
    return inputs | {"controlnet_block_samples": samples}


def _controlnet(draw: Draw) -> Blueprint:
    return Blueprint(transformers.QwenImageTransformer2DModel, _config(), _controlnet_inputs(draw))


def _qwen21(draw: Draw) -> Blueprint:
    """Six words, a 2x2 condition image and a 3x4 target in one causal sequence of 22 tokens.

    The text encoder sees one slot for each four image tokens, and no slots for the target.
    """
    words, condition, target = 6, (1, 2, 2), (1, 3, 4)
    slots = torch.tensor([False] * words + [True] * (1 + 3))[None]
    config = {
        "patch_size": 1,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": BLOCKS,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "context_in_dim": 24,
        "mlp_ratio": 2,
        "axes_dims_rope": (4, 6, 6),
    }
    inputs = {
        "hidden_states": draw.normal(1, 2 * 2 + 3 * 4, 16),
        "encoder_hidden_states": draw.normal(1, words + 1, 24),
        "timestep": draw.uniform(1),
        "img_shapes": [[condition, target]],
        "img_mask": slots,
    }
    return Blueprint(transformers.QwenImage21Transformer2DModel, config, inputs)


def _joy_config() -> Config:
    return {
        "patch_size": [1, 2, 2],
        "in_channels": 16,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "text_dim": 16,
        "num_layers": BLOCKS,
        "rope_dim_list": [4, 6, 6],
        "theta": 256,
    }


def _joy_inputs(draw: Draw, *, batch: int = 2, height: int = 4, width: int = 6, text: int = 10) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, 16, 1, height, width),
        "encoder_hidden_states": draw.normal(batch, text, 16),
        "timestep": draw.uniform(batch),
    }


def _joy_edit(draw: Draw) -> Blueprint:
    model_class = transformers.JoyImageEditTransformer3DModel
    return Blueprint(model_class, _joy_config(), _joy_inputs(draw))


def _joy_edit_plus(draw: Draw) -> Blueprint:
    inputs = {
        "hidden_states": draw.normal(1, 2, 16, 1, 2, 2),
        "encoder_hidden_states": draw.normal(1, 12, 16),
        "timestep": draw.uniform(1),
        "shape_list": [[(1, 1, 1), (1, 1, 1)]],
    }
    return Blueprint(transformers.JoyImageEditPlusTransformer3DModel, _joy_config(), inputs)


CASES: tuple[ZooCase, ...] = (
    ZooCase(
        "QwenImageTransformer2DModel",
        _qwen,
        resize=with_sizes(_inputs, **OTHER_SIZES),
    ),
    ZooCase(
        "QwenImageTransformer2DModel:edit-zero_cond_t",
        _edit,
        resize=with_sizes(_edit_inputs, **OTHER_SIZES),
    ),
    ZooCase(
        "QwenImageTransformer2DModel:controlnet",
        _controlnet,
        resize=with_sizes(_controlnet_inputs, **OTHER_SIZES),
    ),
    ZooCase("QwenImage21Transformer2DModel", _qwen21),
    ZooCase(
        "JoyImageEditTransformer3DModel",
        _joy_edit,
        resize=with_sizes(_joy_inputs, **OTHER_SIZES),
    ),
    ZooCase("JoyImageEditPlusTransformer3DModel", _joy_edit_plus),
)
