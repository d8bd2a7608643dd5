"""Hunyuan: HunyuanDiT, HunyuanVideo and its successors, HunyuanImage."""

from typing import Any

import torch
from diffusers.models import transformers
from torch import Tensor

from .case import BLOCKS, Blueprint, Config, Inputs, ZooCase, with_sizes
from .draw import Draw


def padded_mask(batch: int, length: int, padding: int) -> Tensor:
    """A (batch, length) mask of ones whose first row ends in ``padding`` zeros."""
    mask = torch.ones(batch, length)
    mask[0, length - padding :] = 0
    return mask


def _video_config(**changes: Any) -> Config:
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 10,
        "num_layers": BLOCKS,
        "num_single_layers": BLOCKS,
        "num_refiner_layers": 2,
        "patch_size": 1,
        "patch_size_t": 1,
        "guidance_embeds": True,
        "text_embed_dim": 16,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (2, 4, 4),
        "image_condition_type": None,
    }
    return config | changes


def _video_inputs(
    draw: Draw, *, batch: int = 2, frames: int = 2, height: int = 4, width: int = 6, text: int = 12
) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, 4, frames, height, width),
        "timestep": draw.training_steps(batch),
        "encoder_hidden_states": draw.normal(batch, text, 16),
        "pooled_projections": draw.normal(batch, 8),
        "encoder_attention_mask": torch.ones(batch, text),
        "guidance": torch.full((batch,), 6.0),
    }


def _video(draw: Draw) -> Blueprint:
    model_class = transformers.HunyuanVideoTransformer3DModel
    return Blueprint(model_class, _video_config(), _video_inputs(draw))


def _video_token_replace(draw: Draw) -> Blueprint:
    """Image to video: the tokens of the first frame have a modulation of their own."""
    config = _video_config(image_condition_type="token_replace")
    return Blueprint(transformers.HunyuanVideoTransformer3DModel, config, _video_inputs(draw))


def _framepack(draw: Draw) -> Blueprint:
    batch, frames, text = 1, 3, 12
    history = frames - 1
    config = _video_config(
        patch_size=2,
        num_refiner_layers=1,
        has_image_proj=True,
        image_proj_dim=16,
        has_clean_x_embedder=True,
    )
    inputs = {
        "hidden_states": draw.normal(batch, 4, frames, 4, 4),
        "timestep": draw.training_steps(batch),
        "encoder_hidden_states": draw.normal(batch, text, 16),
        "pooled_projections": draw.normal(batch, 8),
        "encoder_attention_mask": torch.ones(batch, text),
        "guidance": draw.training_steps(batch),
        "image_embeds": draw.normal(batch, 12, 16),
        "indices_latents": torch.ones(frames),
        "latents_clean": draw.normal(batch, 4, history, 4, 4),
        "indices_latents_clean": torch.ones(history),
        "latents_history_2x": draw.normal(batch, 4, history, 4, 4),
        "indices_latents_history_2x": torch.ones(history),
        "latents_history_4x": draw.normal(batch, 4, 4 * history, 4, 4),
        "indices_latents_history_4x": torch.ones(4 * history),
    }
    return Blueprint(transformers.HunyuanVideoFramepackTransformer3DModel, config, inputs)


def _video15(draw: Draw) -> Blueprint:
    """Text, glyph and image tokens are sorted by their masks, and by whether the image is zero."""
    batch, text, glyphs, image = 1, 6, 4, 3
    config = {
        "in_channels": 9,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": BLOCKS,
        "num_refiner_layers": 2,
        "patch_size": 1,
        "patch_size_t": 1,
        "text_embed_dim": 16,
        "text_embed_2_dim": 12,
        "image_embed_dim": 20,
        "rope_axes_dim": (2, 2, 4),
        "target_size": 16,
    }
    inputs = {
        "hidden_states": draw.normal(batch, 9, 1, 8, 8),
        "timestep": draw.training_steps(batch).float(),
        "encoder_hidden_states": draw.normal(batch, text, 16),
        "encoder_attention_mask": padded_mask(batch, text, padding=2),
        "encoder_hidden_states_2": draw.normal(batch, glyphs, 12),
        "encoder_attention_mask_2": padded_mask(batch, glyphs, padding=1),
        "image_embeds": draw.normal(batch, image, 20),
    }
    return Blueprint(transformers.HunyuanVideo15Transformer3DModel, config, inputs)


def _dit(draw: Draw) -> Blueprint:
    """Six blocks: the last two also take the outputs of the first two (long skips)."""
    batch, text, tokens, head_dim = 2, 4, 16, 8
    config = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "num_layers": 6,
        "attention_head_dim": head_dim,
        "num_attention_heads": 2,
        "cross_attention_dim": 8,
        "cross_attention_dim_t5": 8,
        "pooled_projection_dim": 4,
        "hidden_size": 16,
        "text_len": text,
        "text_len_t5": text,
        "activation_fn": "gelu-approximate",
    }
    inputs = {
        "hidden_states": draw.normal(batch, 4, 8, 8),
        "encoder_hidden_states": draw.normal(batch, text, 8),
        "text_embedding_mask": torch.ones(batch, text),
        "encoder_hidden_states_t5": draw.normal(batch, text, 8),
        "text_embedding_mask_t5": torch.ones(batch, text),
        "timestep": draw.training_steps(batch).float(),
        "image_meta_size": torch.tensor([[1024.0, 1024, 16, 16, 0, 0]] * batch),
        "style": torch.zeros(batch, dtype=torch.long),
        "image_rotary_emb": list(draw.rotary(tokens, head_dim)),
    }
    return Blueprint(transformers.HunyuanDiT2DModel, config, inputs)


def _image_config(**changes: Any) -> Config:
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 4,
        "attention_head_dim": 8,
        "num_layers": BLOCKS,
        "num_single_layers": BLOCKS,
        "num_refiner_layers": 1,
        "patch_size": (1, 1),
        "guidance_embeds": False,
        "text_embed_dim": 32,
        "text_embed_2_dim": None,
        "rope_axes_dim": (4, 4),
    }
    return config | changes


def _image_inputs(draw: Draw, *, batch: int = 2, height: int = 4, width: int = 6, text: int = 10) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, 4, height, width),
        "timestep": draw.training_steps(batch).float(),
        "encoder_hidden_states": draw.normal(batch, text, 32),
        "encoder_attention_mask": torch.ones(batch, text),
    }


def _image(draw: Draw) -> Blueprint:
    model_class = transformers.HunyuanImageTransformer2DModel
    return Blueprint(model_class, _image_config(), _image_inputs(draw))


def _image_byt5(draw: Draw) -> Blueprint:
    """Glyph tokens join the text, padding last: the order depends on the masks' values."""
    glyphs = {
        "encoder_hidden_states_2": draw.normal(2, 5, 24),
        "encoder_attention_mask_2": padded_mask(2, 5, padding=2),
    }
    config = _image_config(text_embed_2_dim=24)
    inputs = _image_inputs(draw) | glyphs
    return Blueprint(transformers.HunyuanImageTransformer2DModel, config, inputs)


_resize_video = with_sizes(_video_inputs, batch=3, frames=3, height=6, width=4, text=7)

CASES: tuple[ZooCase, ...] = (
    ZooCase("HunyuanVideoTransformer3DModel", _video, resize=_resize_video),
    ZooCase(
        "HunyuanVideoTransformer3DModel:i2v-token_replace",
        _video_token_replace,
        resize=_resize_video,
    ),
    ZooCase("HunyuanVideoFramepackTransformer3DModel", _framepack),
    ZooCase("HunyuanVideo15Transformer3DModel", _video15),
    ZooCase("HunyuanDiT2DModel", _dit),
    ZooCase(
        "HunyuanImageTransformer2DModel",
        _image,
        resize=with_sizes(_image_inputs, batch=3, height=6, width=8, text=7),
    ),
    ZooCase("HunyuanImageTransformer2DModel:byt5", _image_byt5),
)
