"""Video models of their own design: Mochi, LTX, Allegro, Latte, EasyAnimate, Motif."""

import torch
from diffusers.models import transformers

from .case import BLOCKS, Blueprint, Inputs, ZooCase, with_sizes
from .draw import Draw


def _mochi_inputs(
    draw: Draw, *, batch: int = 2, frames: int = 2, height: int = 8, width: int = 12, text: int = 16
) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, 12, frames, height, width),
        "encoder_hidden_states": draw.normal(batch, text, 16),
        "timestep": draw.training_steps(batch),
        "encoder_attention_mask": torch.ones(batch, text, dtype=torch.bool),
    }


def _mochi(draw: Draw) -> Blueprint:
    config = {
        "patch_size": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": BLOCKS,
        "pooled_projection_dim": 16,
        "in_channels": 12,
        "out_channels": None,
        "qk_norm": "rms_norm",
        "text_embed_dim": 16,
        "time_embed_dim": 4,
        "activation_fn": "swiglu",
        "max_sequence_length": 16,
    }
    return Blueprint(transformers.MochiTransformer3DModel, config, _mochi_inputs(draw))


def _ltx_inputs(
    draw: Draw, *, batch: int = 2, frames: int = 2, height: int = 4, width: int = 6, text: int = 10
) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, frames * height * width, 4),
        "encoder_hidden_states": draw.normal(batch, text, 16),
        "timestep": draw.training_steps(batch),
        "encoder_attention_mask": torch.ones(batch, text, dtype=torch.bool),
        "num_frames": frames,
        "height": height,
        "width": width,
    }


def _ltx(draw: Draw) -> Blueprint:
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "num_layers": BLOCKS,
        "qk_norm": "rms_norm_across_heads",
        "caption_channels": 16,
    }
    return Blueprint(transformers.LTXVideoTransformer3DModel, config, _ltx_inputs(draw))


def _allegro(draw: Draw) -> Blueprint:
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": BLOCKS,
        "cross_attention_dim": 16,
        "sample_width": 8,
        "sample_height": 8,
        "sample_frames": 8,
        "caption_channels": 8,
    }
    inputs = {
        "hidden_states": draw.normal(2, 4, 2, 8, 8),
        "encoder_hidden_states": draw.normal(2, 16, 8),
        "timestep": draw.training_steps(2),
    }
    return Blueprint(transformers.AllegroTransformer3DModel, config, inputs)


def _latte(draw: Draw) -> Blueprint:
    """Spatial and temporal blocks alternate; the stream is reshaped between them."""
    batch, frames = 2, 3
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 4,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": BLOCKS,
        "cross_attention_dim": 8,
        "attention_bias": True,
        "sample_size": 8,
        "patch_size": 2,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "caption_channels": 8,
        "video_length": frames,
    }
    inputs = {
        "hidden_states": draw.normal(batch, 4, frames, 8, 8),
        "timestep": draw.training_steps(batch),
        "encoder_hidden_states": draw.normal(batch, 10, 8),
    }
    return Blueprint(transformers.LatteTransformer3DModel, config, inputs)


def _easy_animate_inputs(
    draw: Draw, *, batch: int = 2, frames: int = 2, height: int = 8, width: int = 12, text: int = 10
) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, 4, frames, height, width),
        "timestep": draw.training_steps(batch),
        "encoder_hidden_states": draw.normal(batch, text, 24),
    }


def _easy_animate(draw: Draw) -> Blueprint:
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "patch_size": 2,
        "sample_width": 12,
        "sample_height": 8,
        "num_layers": BLOCKS,
        "mmdit_layers": BLOCKS,
        "time_embed_dim": 8,
        "text_embed_dim": 24,
    }
    inputs = _easy_animate_inputs(draw)
    return Blueprint(transformers.EasyAnimateTransformer3DModel, config, inputs)


def _motif_inputs(
    draw: Draw, *, batch: int = 2, frames: int = 3, height: int = 4, width: int = 6, text: int = 12
) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, 33, frames, height, width),
        "encoder_hidden_states": draw.normal(batch, text, 32),
        "timestep": draw.training_steps(batch),
    }


def _motif_blueprint(draw: Draw, text_cross_attention: bool) -> Blueprint:
    """The last two single blocks start over from the embedded latents (a decoder)."""
    config = {
        "in_channels": 33,
        "out_channels": 16,
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "num_layers": BLOCKS,
        "num_single_layers": BLOCKS,
        "num_decoder_layers": 2,
        "mlp_ratio": 2.0,
        "patch_size": 1,
        "patch_size_t": 1,
        "qk_norm": "rms_norm",
        "norm_type": "layer_norm",
        "text_embed_dim": 32,
        "image_embed_dim": 4,
        "rope_theta": 256.0,
        "rope_axes_dim": (4, 4, 4),
        "enable_text_cross_attention_dual": text_cross_attention,
        "enable_text_cross_attention_single": text_cross_attention,
    }
    return Blueprint(transformers.MotifVideoTransformer3DModel, config, _motif_inputs(draw))


def _motif(draw: Draw) -> Blueprint:
    return _motif_blueprint(draw, text_cross_attention=False)


def _motif_text_cross_attention(draw: Draw) -> Blueprint:
    return _motif_blueprint(draw, text_cross_attention=True)


_resize_motif = with_sizes(_motif_inputs, batch=3, frames=2, height=6, width=4, text=7)

CASES: tuple[ZooCase, ...] = (
    ZooCase(
        "MochiTransformer3DModel",
        _mochi,
        resize=with_sizes(_mochi_inputs, batch=3, frames=3, height=12, width=8, text=9),
    ),
    ZooCase(
        "LTXVideoTransformer3DModel",
        _ltx,
        resize=with_sizes(_ltx_inputs, batch=3, frames=3, height=6, width=8, text=7),
    ),
    ZooCase("AllegroTransformer3DModel", _allegro),
    ZooCase("LatteTransformer3DModel", _latte),
    ZooCase(
        "EasyAnimateTransformer3DModel",
        _easy_animate,
        resize=with_sizes(_easy_animate_inputs, batch=3, frames=3, height=12, width=8, text=7),
    ),
    ZooCase("MotifVideoTransformer3DModel", _motif, resize=_resize_motif),
    ZooCase(
        "MotifVideoTransformer3DModel:textca",
        _motif_text_cross_attention,
        resize=_resize_motif,
    ),
)
