"""Lumina and Z-Image: refiners for text and noise in front of one joint stream."""

import torch
from diffusers.models import transformers
from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

from .case import BLOCKS, Blueprint, Inputs, ZooCase, with_sizes
from .draw import Draw


def _next_inputs(draw: Draw, *, batch: int = 2, height: int = 8, width: int = 12, text: int = 10) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, 4, height, width),
        "timestep": draw.uniform(batch),
        "encoder_hidden_states": draw.normal(batch, text, 32),
        "encoder_mask": torch.ones(batch, text),
        "image_rotary_emb": get_2d_rotary_pos_embed_lumina(8, 16, 16),
        "cross_attention_kwargs": {},
    }


def _next(draw: Draw) -> Blueprint:
    """The rotary embedding arrives as a complex tensor."""
    config = {
        "sample_size": 16,
        "patch_size": 2,
        "in_channels": 4,
        "hidden_size": 24,
        "num_layers": BLOCKS,
        "num_attention_heads": 3,
        "num_kv_heads": 1,
        "multiple_of": 16,
        "ffn_dim_multiplier": None,
        "norm_eps": 1e-5,
        "learn_sigma": False,
        "qk_norm": True,
        "cross_attention_dim": 32,
        "scaling_factor": 1.0,
    }
    return Blueprint(transformers.LuminaNextDiT2DModel, config, _next_inputs(draw))


def _lumina2_inputs(
    draw: Draw, *, batch: int = 2, height: int = 8, width: int = 12, text: int = 10
) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, 4, height, width),
        "timestep": draw.uniform(batch),
        "encoder_hidden_states": draw.normal(batch, text, 32),
        "encoder_attention_mask": torch.ones(batch, text, dtype=torch.bool),
    }


def _lumina2(draw: Draw) -> Blueprint:
    """The mask's sums decide the shapes of the joint sequence."""
    config = {
        "sample_size": 16,
        "patch_size": 2,
        "in_channels": 4,
        "hidden_size": 24,
        "num_layers": BLOCKS,
        "num_refiner_layers": 2,
        "num_attention_heads": 3,
        "num_kv_heads": 1,
        "multiple_of": 16,
        "axes_dim_rope": (4, 2, 2),
        "axes_lens": (128, 32, 32),
        "cap_feat_dim": 32,
    }
    return Blueprint(transformers.Lumina2Transformer2DModel, config, _lumina2_inputs(draw))


def _z_image_inputs(
    draw: Draw, *, batch: int = 2, height: int = 8, width: int = 12, text: int = 10
) -> Inputs:
    return {
        "x": [draw.normal(4, 1, height, width) for _ in range(batch)],
        "t": draw.uniform(batch),
        "cap_feats": [draw.normal(text, 24) for _ in range(batch)],
    }


def _z_image(draw: Draw) -> Blueprint:
    """Lists of images and captions, each padded to a multiple of 32 tokens."""
    config = {
        "all_patch_size": (2,),
        "all_f_patch_size": (1,),
        "in_channels": 4,
        "dim": 16,
        "n_layers": BLOCKS,
        "n_refiner_layers": 2,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": 24,
        "axes_dims": [4, 2, 2],
        "axes_lens": [128, 32, 32],
    }
    return Blueprint(transformers.ZImageTransformer2DModel, config, _z_image_inputs(draw))


_other_sizes = {"batch": 3, "height": 12, "width": 16, "text": 7}

CASES: tuple[ZooCase, ...] = (
    ZooCase(
        "LuminaNextDiT2DModel",
        _next,
        resize=with_sizes(_next_inputs, **_other_sizes),
    ),
    ZooCase(
        "Lumina2Transformer2DModel",
        _lumina2,
        resize=with_sizes(_lumina2_inputs, **_other_sizes),
    ),
    ZooCase(
        "ZImageTransformer2DModel",
        _z_image,
        latent_names=("x",),
        timestep_names=("t",),
        resize=with_sizes(_z_image_inputs, **_other_sizes),
    ),
)
