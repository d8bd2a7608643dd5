"""Wan-Animate: a face encoder between the blocks, and a key-value cache as an input."""

from typing import Any

import torch
from diffusers.models import transformers
from torch import nn

from .case import BLOCKS, Blueprint, Config, Inputs, ZooCase
from .draw import Draw
from .wan import LONG_TEXT, wan_config

CACHED_FRAMES = 2
FRAME_TOKENS = 4


def _animate(draw: Draw) -> Blueprint:
    """One reference frame, then 8 latent frames driven by 32 pictures of a face."""
    batch, frames, face_frames, face_size = 1, 8, 32, 16
    config = wan_config(
        in_channels=12,
        latent_channels=4,
        image_dim=16,
        added_kv_proj_dim=24,
        motion_encoder_channel_sizes={"4": 16, "8": 16, "16": 16},
        motion_encoder_size=face_size,
        motion_style_dim=16,
        motion_dim=4,
        motion_encoder_dim=16,
        face_encoder_hidden_dim=16,
        face_encoder_num_heads=2,
        inject_face_latents_blocks=2,
        motion_encoder_batch_size=8,
    )
    inputs = {
        "hidden_states": draw.normal(batch, 12, frames + 1, 8, 12),
        "timestep": draw.training_steps(batch),
        "encoder_hidden_states": draw.normal(batch, LONG_TEXT, 16),
        "encoder_hidden_states_image": draw.normal(batch, 257, 16),
        "pose_hidden_states": draw.normal(batch, 4, frames, 8, 12),
        "face_pixel_values": draw.normal(batch, 3, face_frames, face_size, face_size),
    }
    return Blueprint(transformers.WanAnimateTransformer3DModel, config, inputs)


def _with_block_mask(**config: Any) -> nn.Module:
    """The model after its first generation pass, which compiles a block mask and keeps it.

    Built here without the compiler, the mask is the same and takes no 20 seconds.
    """
    model = transformers.WanAnimate2Transformer3DModel(**config)
    with torch.compiler.set_stance("force_eager"):
        mask = model.create_mask(CACHED_FRAMES, FRAME_TOKENS, torch.device("cpu"))
    model.block_masks[CACHED_FRAMES, FRAME_TOKENS] = mask
    return model


def _animate2_config() -> Config:
    return {
        "patch_size": (1, 2, 2),
        "text_len": 16,
        "in_dim": 36,
        "dim": 128,
        "ffn_dim": 64,
        "freq_dim": 64,
        "text_dim": 32,
        "out_dim": 16,
        "num_heads": 4,
        "num_layers": BLOCKS,
        "cross_attn_norm": True,
        "use_img_emb": True,
    }


def _animate2_inputs(draw: Draw, frames: int, kv_cache: Any) -> Inputs:
    """A video of ``frames`` 4x4 latent frames in 2x2 patches."""
    return {
        "hidden_states": [draw.normal(16, frames, 4, 4)],
        "timestep": torch.full((1,), 500.0),
        "encoder_hidden_states": [draw.normal(8, 32)],
        "condition_latents": [draw.normal(20, frames, 4, 4)],
        "encoder_hidden_states_image": draw.normal(1, 4, 1280),
        "kv_cache": kv_cache,
        "seq_len": FRAME_TOKENS * frames,
    }


def _animate2_extract(draw: Draw) -> Blueprint:
    """The reference pass: each block writes its keys and values to the cache."""
    inputs = _animate2_inputs(
        draw, CACHED_FRAMES, transformers.transformer_wan_animate_2.WanAnimate2KVCache(BLOCKS)
    ) | {
        "kv_cache_mode": "extract",
        "offset_grid_sizes": torch.tensor([[CACHED_FRAMES, 2, 2]]),
    }
    return Blueprint(transformers.WanAnimate2Transformer3DModel, _animate2_config(), inputs)


def filled_cache(draw: Draw) -> Any:
    """A cache as the reference pass leaves it: (batch, tokens, heads, head_dim) in each block."""
    cache = transformers.transformer_wan_animate_2.WanAnimate2KVCache(BLOCKS)
    shape = (1, CACHED_FRAMES * FRAME_TOKENS, 4, 32)
    for layer in cache.layer_caches:
        layer.store(draw.normal(*shape), draw.normal(*shape))
    return cache


def _animate2(draw: Draw) -> Blueprint:
    """The generation pass: a reference frame and two driven ones attend to the cached two."""
    inputs = _animate2_inputs(draw, CACHED_FRAMES + 1, filled_cache(draw)) | {
        "kv_cache_mode": "cached",
        "reference_grid_sizes": torch.tensor([[CACHED_FRAMES, 2, 2]]),
        "origin_len": 5,
        "origin_area": [32, 32],
    }
    return Blueprint(_with_block_mask, _animate2_config(), inputs)


CASES: tuple[ZooCase, ...] = (
    ZooCase("WanAnimateTransformer3DModel", _animate),
    ZooCase("WanAnimate2Transformer3DModel", _animate2),
    ZooCase("WanAnimate2Transformer3DModel:extract", _animate2_extract),
)
