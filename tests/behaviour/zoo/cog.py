"""CogVideoX, ConsisID, CogView and GLM-Image."""

from typing import Any

import torch
from diffusers.models import transformers

from .case import BLOCKS, Blueprint, Config, Inputs, ZooCase, with_sizes
from .draw import Draw

TEXT = 8


def _video_config(**changes: Any) -> Config:
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 2,
        "text_embed_dim": 8,
        "num_layers": BLOCKS,
        "sample_width": 8,
        "sample_height": 8,
        "sample_frames": 5,
        "patch_size": 2,
        "temporal_compression_ratio": 4,
        "max_text_seq_length": TEXT,
    }
    return config | changes


def _video_inputs(draw: Draw, *, batch: int = 2, frames: int = 2, height: int = 8, width: int = 8) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, frames, 4, height, width),
        "encoder_hidden_states": draw.normal(batch, TEXT, 8),
        "timestep": draw.training_steps(batch),
    }


def _cogvideox(draw: Draw) -> Blueprint:
    model_class = transformers.CogVideoXTransformer3DModel
    return Blueprint(model_class, _video_config(), _video_inputs(draw))


def _rope_inputs(draw: Draw, *, batch: int = 2, frames: int = 2, height: int = 8, width: int = 8) -> Inputs:
    """Frames and pixels fold in twos, so the video has frames * height * width / 8 tokens."""
    inputs = _video_inputs(draw, batch=batch, frames=frames, height=height, width=width)
    return inputs | {"image_rotary_emb": draw.rotary(frames * height * width // 8, 8)}


def _cogvideox_rope(draw: Draw) -> Blueprint:
    config = _video_config(
        patch_size_t=2,
        patch_bias=False,
        use_rotary_positional_embeddings=True,
        sample_frames=8,
    )
    return Blueprint(transformers.CogVideoXTransformer3DModel, config, _rope_inputs(draw))


def _consis_id(draw: Draw) -> Blueprint:
    """A face extractor feeds a perceiver cross attention after every second block."""
    config = _video_config(
        is_train_face=True,
        cross_attn_interval=2,
        cross_attn_dim_head=4,
        cross_attn_num_heads=2,
        LFE_id_dim=6,
        LFE_vit_dim=8,
        LFE_depth=2,
        LFE_dim_head=4,
        LFE_num_heads=2,
        LFE_num_id_token=1,
        LFE_num_querie=1,
        LFE_output_dim=10,
        LFE_ff_mult=1,
        LFE_num_scale=2,
    )
    face = {
        "id_cond": draw.normal(2, 6),
        "id_vit_hidden": [draw.normal(2, 3, 8) for _ in range(2)],
    }
    return Blueprint(transformers.ConsisIDTransformer3DModel, config, _video_inputs(draw) | face)


def _view_config(**changes: Any) -> Config:
    config = {
        "patch_size": 2,
        "in_channels": 4,
        "num_layers": BLOCKS,
        "attention_head_dim": 4,
        "num_attention_heads": 4,
        "out_channels": 4,
        "text_embed_dim": 8,
        "time_embed_dim": 8,
        "condition_dim": 2,
    }
    return config | changes


def _view_inputs(draw: Draw, *, batch: int = 2, height: int = 8, width: int = 6, text: int = TEXT) -> Inputs:
    size = torch.tensor([[8 * height, 8 * width]] * batch)
    return {
        "hidden_states": draw.normal(batch, 4, height, width),
        "encoder_hidden_states": draw.normal(batch, text, 8),
        "timestep": draw.training_steps(batch),
        "original_size": size,
        "target_size": size.clone(),
        "crop_coords": torch.zeros(batch, 2, dtype=torch.long),
    }


def _cogview3(draw: Draw) -> Blueprint:
    config = _view_config(pos_embed_max_size=8, sample_size=8)
    return Blueprint(transformers.CogView3PlusTransformer2DModel, config, _view_inputs(draw))


def _cogview4(draw: Draw) -> Blueprint:
    config = _view_config(rope_axes_dim=(8, 8))
    return Blueprint(transformers.CogView4Transformer2DModel, config, _view_inputs(draw))


def _glm_image(draw: Draw) -> Blueprint:
    batch, tokens = 1, 16
    config = {
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": BLOCKS,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "text_embed_dim": 24,
        "time_embed_dim": 16,
        "condition_dim": 8,
        "prior_vq_quantizer_codebook_size": 32,
    }
    inputs = {
        "hidden_states": draw.normal(batch, 4, 8, 8),
        "encoder_hidden_states": draw.normal(batch, 12, 24),
        "prior_token_id": draw.integers(32, batch, tokens),
        "prior_token_drop": torch.zeros(batch, tokens, dtype=torch.bool),
        "timestep": draw.training_steps(batch),
        "target_size": torch.tensor([[64.0, 64.0]]),
        "crop_coords": torch.zeros(batch, 2),
    }
    return Blueprint(transformers.GlmImageTransformer2DModel, config, inputs)


CASES: tuple[ZooCase, ...] = (
    ZooCase(
        "CogVideoXTransformer3DModel",
        _cogvideox,
        resize=with_sizes(_video_inputs, batch=3, frames=3, height=6, width=10),
    ),
    ZooCase(
        "CogVideoXTransformer3DModel:1.5-rope",
        _cogvideox_rope,
        resize=with_sizes(_rope_inputs, batch=3, frames=4, height=6, width=10),
    ),
    ZooCase("ConsisIDTransformer3DModel", _consis_id),
    ZooCase(
        "CogView3PlusTransformer2DModel",
        _cogview3,
        resize=with_sizes(_view_inputs, batch=3, height=10, width=12, text=5),
    ),
    ZooCase(
        "CogView4Transformer2DModel",
        _cogview4,
        resize=with_sizes(_view_inputs, batch=3, height=10, width=12, text=5),
    ),
    ZooCase("GlmImageTransformer2DModel", _glm_image),
)
