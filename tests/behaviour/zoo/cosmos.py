"""Cosmos: the video model with its ControlNet, and the packed omni model."""

from typing import Any

import torch
from diffusers.models import transformers

from .case import BLOCKS, Blueprint, Config, Inputs, ZooCase, with_sizes
from .draw import Draw

OTHER_SIZES = {"batch": 3, "frames": 3, "height": 12, "width": 8, "text": 7}


def _config(**changes: Any) -> Config:
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "num_layers": BLOCKS,
        "mlp_ratio": 2,
        "text_embed_dim": 16,
        "adaln_lora_dim": 4,
        "max_size": (4, 32, 32),
        "patch_size": (1, 2, 2),
        "rope_scale": (2.0, 1.0, 1.0),
        "concat_padding_mask": False,
        "extra_pos_embed_type": "learnable",
    }
    return config | changes


def _inputs(
    draw: Draw, *, batch: int = 2, frames: int = 2, height: int = 8, width: int = 12, text: int = 10
) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, 4, frames, height, width),
        "timestep": draw.training_steps(batch),
        "encoder_hidden_states": draw.normal(batch, text, 16),
        "attention_mask": torch.ones(batch, text),
        "fps": 30,
        "padding_mask": torch.zeros(1, 1, height, width),
    }


def _cosmos(draw: Draw) -> Blueprint:
    return Blueprint(transformers.CosmosTransformer3DModel, _config(), _inputs(draw))


def _controlnet_inputs(
    draw: Draw, *, batch: int = 2, frames: int = 2, height: int = 8, width: int = 12, text: int = 10
) -> Inputs:
    inputs = _inputs(draw, batch=batch, frames=frames, height=height, width=width, text=text)
    tokens = frames * height * width // 4
    samples = [draw.normal(batch, tokens, 24) for _ in range(2)]
    return inputs | {"block_controlnet_hidden_states": samples}


def _cosmos_controlnet(draw: Draw) -> Blueprint:
    """The residual is an argument of every second block, which adds it in place to its output."""
    config = _config(controlnet_block_every_n=2)
    return Blueprint(transformers.CosmosTransformer3DModel, config, _controlnet_inputs(draw))


def _omni(draw: Draw) -> Blueprint:
    """Two text tokens to understand, 16 video tokens to generate, packed with no batch."""
    channels, text = 4, 2
    frames, rows, columns = 2, 2, 4
    tokens = frames * rows * columns
    video = torch.arange(text, text + tokens)
    config = {
        "head_dim": 6,
        "hidden_size": 12,
        "intermediate_size": 24,
        "latent_channel": channels,
        "latent_patch_size": 2,
        "num_attention_heads": 2,
        "num_hidden_layers": BLOCKS,
        "num_key_value_heads": 1,
        "patch_latent_dim": 4 * channels,
        "vocab_size": 20,
        "rope_theta": 10000.0,
        "rope_axes_dim": (1, 1, 1),
    }
    inputs = {
        "input_ids": draw.integers(20, text),
        "text_indexes": torch.arange(text),
        "position_ids": torch.arange(text + tokens).repeat(3, 1),
        "und_len": text,
        "sequence_length": text + tokens,
        "vision_tokens": [draw.normal(1, channels, frames, 2 * rows, 2 * columns)],
        "vision_token_shapes": [(frames, rows, columns)],
        "vision_sequence_indexes": video,
        "vision_mse_loss_indexes": video.clone(),
        "vision_timesteps": torch.full((tokens,), 500.0),
        "vision_noisy_frame_indexes": [torch.arange(frames)],
    }
    return Blueprint(transformers.Cosmos3OmniTransformer, config, inputs)


CASES: tuple[ZooCase, ...] = (
    ZooCase(
        "CosmosTransformer3DModel",
        _cosmos,
        resize=with_sizes(_inputs, **OTHER_SIZES),
    ),
    ZooCase(
        "CosmosTransformer3DModel:controlnet",
        _cosmos_controlnet,
        resize=with_sizes(_controlnet_inputs, **OTHER_SIZES),
    ),
    ZooCase(
        "Cosmos3OmniTransformer",
        _omni,
        latent_names=("vision_tokens",),
        timestep_names=("vision_timesteps",),
    ),
)
