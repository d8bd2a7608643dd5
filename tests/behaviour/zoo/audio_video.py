"""Models that denoise a video and its sound together: LTX-2, Kandinsky 6, MiniMax-H3."""

import torch
from diffusers.models import transformers

from .case import BLOCKS, Blueprint, Config, Inputs, ZooCase, with_sizes
from .draw import Draw

BOTH_STREAMS = ("hidden_states", "audio_hidden_states")


def _ltx2_inputs(
    draw: Draw,
    *,
    batch: int = 2,
    frames: int = 2,
    height: int = 4,
    width: int = 6,
    audio: int = 9,
    text: int = 10,
) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, frames * height * width, 4),
        "audio_hidden_states": draw.normal(batch, audio, 4),
        "encoder_hidden_states": draw.normal(batch, text, 16),
        "audio_encoder_hidden_states": draw.normal(batch, text, 16),
        "timestep": draw.training_steps(batch).float(),
        "encoder_attention_mask": torch.ones(batch, text),
        "audio_encoder_attention_mask": torch.ones(batch, text),
        "num_frames": frames,
        "height": height,
        "width": width,
        "fps": 25.0,
        "audio_num_frames": audio,
    }


def _ltx2(draw: Draw) -> Blueprint:
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "cross_attention_dim": 16,
        "audio_in_channels": 4,
        "audio_out_channels": 4,
        "audio_num_attention_heads": 2,
        "audio_attention_head_dim": 4,
        "audio_cross_attention_dim": 8,
        "num_layers": BLOCKS,
        "caption_channels": 16,
        "rope_double_precision": False,
    }
    return Blueprint(transformers.LTX2VideoTransformer3DModel, config, _ltx2_inputs(draw))


def _kandinsky6_config() -> Config:
    return {
        "in_visual_dim": 4,
        "out_visual_dim": 4,
        "in_text_dim": 32,
        "in_text_dim2": 16,
        "time_dim": 16,
        "patch_size": (1, 2, 2),
        "model_dim": 16,
        "ff_dim": 32,
        "num_text_blocks": 2,
        "num_visual_blocks": BLOCKS,
        "axes_dims": (4, 2, 2),
        "visual_cond": True,
        "in_audio_dim": 6,
        "out_audio_dim": 6,
    }


def _kandinsky6_inputs(draw: Draw) -> Inputs:
    return {
        "hidden_states": draw.normal(2, 2, 8, 12, 2 * 4 + 1),
        "encoder_hidden_states": draw.normal(2, 10, 32),
        "pooled_projections": draw.normal(2, 16),
        "timestep": draw.uniform(2) * 1000,
    }


def _kandinsky6(draw: Draw) -> Blueprint:
    inputs = _kandinsky6_inputs(draw) | {"audio_hidden_states": draw.normal(2, 7, 6)}
    return Blueprint(transformers.Kandinsky6Transformer3DModel, _kandinsky6_config(), inputs)


def _kandinsky6_video_only(draw: Draw) -> Blueprint:
    inputs = _kandinsky6_inputs(draw)
    return Blueprint(transformers.Kandinsky6Transformer3DModel, _kandinsky6_config(), inputs)


def _minimax_h3(draw: Draw) -> Blueprint:
    """Text, audio and video tokens in one packed sequence, told apart by index tensors."""
    batch, text, audio, video = 2, 4, 6, 8
    text_indices, audio_indices, video_indices = torch.arange(text + audio + video).split(
        [text, audio, video]
    )
    tags = torch.zeros(text + audio + video, dtype=torch.long)
    tags[text_indices], tags[audio_indices] = 1, 2
    timestep_indices = torch.zeros_like(tags)
    timestep_indices[audio_indices] = 1
    positions = torch.zeros(len(tags), 3)
    positions[:, 0] = torch.arange(len(tags))
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "hidden_size": 24,
        "num_layers": BLOCKS,
        "num_refiner_layers": 2,
        "ffn_dim": 32,
        "in_channels": 4,
        "audio_in_channels": 6,
        "patch_size": (1, 2, 2),
        "text_dim": 8,
        "freq_dim": 8,
        "time_embed_hidden_dim": 24,
        "time_embed_dim": 16,
        "rope_freq_dim": 2,
    }
    inputs = {
        "hidden_states": draw.normal(batch, video, 16),
        "audio_hidden_states": draw.normal(batch, audio, 6),
        "encoder_hidden_states": draw.normal(batch, text, 8),
        "timestep": torch.tensor([0.7, 0.3]),
        "timestep_indices": timestep_indices,
        "token_tags": tags,
        "position_ids": positions,
        "video_indices": video_indices,
        "audio_indices": audio_indices,
        "text_indices": text_indices,
    }
    return Blueprint(transformers.MiniMaxH3Transformer3DModel, config, inputs)


CASES: tuple[ZooCase, ...] = (
    ZooCase(
        "LTX2VideoTransformer3DModel",
        _ltx2,
        latent_names=BOTH_STREAMS,
        resize=with_sizes(_ltx2_inputs, batch=3, frames=3, height=6, width=8, audio=5, text=7),
    ),
    ZooCase("Kandinsky6Transformer3DModel", _kandinsky6, latent_names=BOTH_STREAMS),
    ZooCase("Kandinsky6Transformer3DModel:video-only", _kandinsky6_video_only),
    ZooCase("MiniMaxH3Transformer3DModel", _minimax_h3, latent_names=BOTH_STREAMS),
)
