"""Tiny random-weight models of the real classes, saved to folders as a user would have them."""

from __future__ import annotations

import string
import warnings
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableAudioPipeline,
    WanPipeline,
)
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

from tests.behaviour.pipelines import build

WIDTH, LENGTH = 32, 16


def tokenizer() -> CLIPTokenizer:
    """Spells words letter by letter."""
    letters = list(string.ascii_lowercase)
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={t: i for i, t in enumerate(tokens)},
        merges=[],
        model_max_length=LENGTH,
        pad_token="<|endoftext|>",
    )


def _text_fields() -> dict[str, int]:
    return {
        "vocab_size": 54,
        "hidden_size": WIDTH,
        "intermediate_size": 37,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "max_position_embeddings": LENGTH,
        "projection_dim": WIDTH,
        "bos_token_id": 52,
        "eos_token_id": 53,
        "pad_token_id": 53,
    }


def save_clip(folder: Path) -> Path:
    """A CLIPModel with its processor."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 37,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "image_size": 28,
        "patch_size": 14,
        "projection_dim": WIDTH,
    }
    model = CLIPModel(CLIPConfig(text_config=_text_fields(), vision_config=vision, projection_dim=WIDTH))
    model.save_pretrained(folder)
    size = {"height": 28, "width": 28}
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size)
    CLIPProcessor(image_processor=images, tokenizer=tokenizer()).save_pretrained(folder)
    return folder


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        shift_factor=0.06,
        scaling_factor=1.5,
    )


def save_sd3(folder: Path) -> Path:
    """A StableDiffusion3Pipeline with four blocks and two CLIP text encoders, 16 x 16 pixels."""
    torch.manual_seed(0)
    text = CLIPTextConfig(**_text_fields(), hidden_act="gelu")
    transformer = SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=4,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH,
        out_channels=4,
    )
    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        text_encoder=CLIPTextModelWithProjection(text),
        tokenizer=tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(text),
        tokenizer_2=tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipe.save_pretrained(folder)
    return folder


def save_flux(folder: Path) -> Path:
    """A FluxPipeline with four blocks; 16 x 16 pixels are 16 tokens, to be split among 2 or 4 processes."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        axes_dims_rope=(2, 2, 4),
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
    )
    pipe = FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**_text_fields(), hidden_act="gelu")),
        tokenizer=tokenizer(),
        text_encoder_2=_t5(WIDTH),
        tokenizer_2=tokenizer(),
    )
    return _saved(pipe, folder)


def save_wan(folder: Path) -> Path:
    """A WanPipeline of clips, with two denoisers of four blocks and a T5 text encoder."""
    parts = build.WAN.components() | {"text_encoder": _t5(16), "tokenizer": tokenizer()}
    return _saved(WanPipeline(**parts, **build.WAN.settings), folder)


def save_stable_audio(folder: Path) -> Path:
    """A StableAudioPipeline of sounds, 24 samples long, with four blocks and a T5 text encoder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of diffusers' autoencoder
        parts = build.audio_parts()
    parts |= {"text_encoder": _t5(4), "tokenizer": tokenizer()}
    return _saved(StableAudioPipeline(**parts), folder)


def _t5(width: int) -> T5EncoderModel:
    torch.manual_seed(0)
    return T5EncoderModel(T5Config(vocab_size=54, d_model=width, d_kv=4, d_ff=8, num_layers=1, num_heads=2))


def _saved(pipe: DiffusionPipeline, folder: Path) -> Path:
    pipe.save_pretrained(folder)
    return folder
