"""Sana: linear-attention image and video models, and the world model with its refiner."""

import torch
from diffusers.models import transformers

from .case import BLOCKS, Blueprint, Config, Inputs, ZooCase, with_sizes
from .draw import Draw


def _image_config() -> Config:
    return {
        "patch_size": 1,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": BLOCKS,
        "attention_head_dim": 4,
        "num_attention_heads": 2,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 4,
        "cross_attention_dim": 8,
        "caption_channels": 8,
        "sample_size": 32,
    }


def _image_inputs(draw: Draw, *, batch: int = 2, height: int = 8, width: int = 12, text: int = 8) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, 4, height, width),
        "encoder_hidden_states": draw.normal(batch, text, 8),
        "timestep": draw.training_steps(batch),
    }


def _image(draw: Draw) -> Blueprint:
    return Blueprint(transformers.SanaTransformer2DModel, _image_config(), _image_inputs(draw))


def _controlnet_inputs(
    draw: Draw, *, batch: int = 2, height: int = 8, width: int = 12, text: int = 8
) -> Inputs:
    inputs = _image_inputs(draw, batch=batch, height=height, width=width, text=text)
    samples = tuple(draw.normal(batch, height * width, 8) for _ in range(2))
    return inputs | {"controlnet_block_samples": samples}


def _image_controlnet(draw: Draw) -> Blueprint:
    return Blueprint(transformers.SanaTransformer2DModel, _image_config(), _controlnet_inputs(draw))


def _video_inputs(
    draw: Draw, *, batch: int = 2, frames: int = 2, height: int = 8, width: int = 12, text: int = 10
) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, 16, frames, height, width),
        "encoder_hidden_states": draw.normal(batch, text, 16),
        "timestep": draw.training_steps(batch),
    }


def _video(draw: Draw) -> Blueprint:
    config = {
        "in_channels": 16,
        "out_channels": 16,
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "num_layers": BLOCKS,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 12,
        "cross_attention_dim": 24,
        "caption_channels": 16,
        "mlp_ratio": 2.5,
        "sample_size": 8,
        "patch_size": (1, 2, 2),
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 32,
    }
    return Blueprint(transformers.SanaVideoTransformer3DModel, config, _video_inputs(draw))


def _world_model(draw: Draw) -> Blueprint:
    """Every second block attends with softmax, the others linearly; a camera moves per frame."""
    batch, channels, frames, height, width = 1, 8, 3, 4, 6
    camera = torch.zeros(batch, frames, 20)
    camera[..., :16] = torch.eye(4).flatten()
    camera[..., 16:] = 0.5
    config = {
        "in_channels": channels,
        "num_layers": BLOCKS,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "softmax_every_n": 2,
        "linear_head_dim": 16,
        "chunk_plucker_channels": 12,
        "caption_channels": 24,
        "image_size": 64,
    }
    inputs = {
        "hidden_states": draw.normal(batch, channels, frames, height, width),
        "timestep": torch.full((batch, 1, frames), 500.0),
        "encoder_hidden_states": draw.normal(batch, 1, 7, 24),
        "encoder_attention_mask": torch.ones(batch, 7),
        "camera_conditions": camera,
        "chunk_plucker": draw.normal(batch, 12, frames, height, width),
    }
    return Blueprint(transformers.SanaWMTransformer3DModel, config, inputs)


def _refiner(draw: Draw) -> Blueprint:
    """The rotary embedding is an input, (batch, heads, tokens, head_dim / 2) each."""
    batch, tokens, heads, head_dim = 2, 2 * 4 * 6, 2, 8
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "patch_size": 1,
        "patch_size_t": 1,
        "num_attention_heads": heads,
        "attention_head_dim": head_dim,
        "cross_attention_dim": 16,
        "audio_in_channels": 4,
        "audio_out_channels": 4,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 4,
        "audio_cross_attention_dim": 8,
        "num_layers": BLOCKS,
        "caption_channels": 16,
        "rope_double_precision": False,
        "rope_type": "split",
    }
    angles = draw.normal(1, heads, tokens, head_dim // 2).repeat(batch, 1, 1, 1)
    inputs = {
        "hidden_states": draw.normal(batch, tokens, 4),
        "encoder_hidden_states": draw.normal(batch, 10, 16),
        "timestep": draw.uniform(batch, tokens) * 1000,
        "video_rotary_emb": (angles.cos(), angles.sin()),
        "encoder_attention_mask": torch.ones(batch, 10),
    }
    return Blueprint(transformers.SanaWMLTX2RefinerTransformer3DModel, config, inputs)


_other_image = {"batch": 3, "height": 10, "width": 6, "text": 5}

CASES: tuple[ZooCase, ...] = (
    ZooCase(
        "SanaTransformer2DModel",
        _image,
        resize=with_sizes(_image_inputs, **_other_image),
    ),
    ZooCase(
        "SanaTransformer2DModel:controlnet",
        _image_controlnet,
        resize=with_sizes(_controlnet_inputs, **_other_image),
    ),
    ZooCase(
        "SanaVideoTransformer3DModel",
        _video,
        resize=with_sizes(_video_inputs, batch=3, frames=3, height=12, width=8, text=7),
    ),
    ZooCase("SanaWMTransformer3DModel", _world_model),
    ZooCase("SanaWMLTX2RefinerTransformer3DModel", _refiner),
)
