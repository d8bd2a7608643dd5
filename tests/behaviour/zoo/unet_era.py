"""Transformers that live inside UNets, most of them called without a timestep, and UVit."""

from typing import Any

import torch
from diffusers.models import transformers
from diffusers.models.transformers.transformer_temporal import TransformerSpatioTemporalModel
from diffusers.models.unets.uvit_2d import UVit2DModel

from .case import BLOCKS, Blueprint, Config, Inputs, ZooCase
from .draw import Draw


def _spatial_config(**changes: Any) -> Config:
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 32,
        "num_layers": BLOCKS,
        "norm_num_groups": 8,
        "cross_attention_dim": 16,
    }
    return config | changes


def _spatial_inputs(draw: Draw, text: int = 10) -> Inputs:
    return {
        "hidden_states": draw.normal(2, 32, 6, 8),
        "encoder_hidden_states": draw.normal(2, text, 16),
    }


def _spatial(draw: Draw) -> Blueprint:
    return Blueprint(transformers.Transformer2DModel, _spatial_config(), _spatial_inputs(draw))


def _vectorized(draw: Draw) -> Blueprint:
    """VQ-Diffusion: the sample is a sequence of codes, and the time an embedding index."""
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "num_layers": BLOCKS,
        "cross_attention_dim": 16,
        "sample_size": 6,
        "num_vector_embeds": 20,
        "num_embeds_ada_norm": 100,
        "norm_type": "ada_norm",
    }
    inputs = {
        "hidden_states": draw.integers(19, 2, 36),
        "encoder_hidden_states": draw.normal(2, 10, 16),
        "timestep": torch.tensor(5),
    }
    return Blueprint(transformers.Transformer2DModel, config, inputs)


def _patches(draw: Draw) -> Blueprint:
    config = {
        "sample_size": 8,
        "num_layers": BLOCKS,
        "patch_size": 2,
        "attention_head_dim": 4,
        "num_attention_heads": 2,
        "in_channels": 4,
        "cross_attention_dim": 8,
        "out_channels": 8,
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 8,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "caption_channels": 8,
        "use_additional_conditions": False,
    }
    inputs = {
        "hidden_states": draw.normal(2, 4, 8, 8),
        "timestep": draw.training_steps(2),
        "encoder_hidden_states": draw.normal(2, 10, 8),
        "added_cond_kwargs": {"aspect_ratio": None, "resolution": None},
    }
    return Blueprint(transformers.Transformer2DModel, config, inputs)


def _dream_lite(draw: Draw) -> Blueprint:
    model_class = transformers.DreamLiteTransformer2DModel
    return Blueprint(model_class, _spatial_config(), _spatial_inputs(draw))


def _dual(draw: Draw) -> Blueprint:
    """Two transformers side by side, one for the 77 text tokens and one for the 257 image ones."""
    config = _spatial_config(dropout=0.0)
    return Blueprint(transformers.DualTransformer2DModel, config, _spatial_inputs(draw, text=77 + 257))


def _temporal(draw: Draw) -> Blueprint:
    config = {
        "num_attention_heads": 4,
        "attention_head_dim": 8,
        "in_channels": 8,
        "num_layers": BLOCKS,
        "norm_num_groups": 1,
    }
    inputs = {
        "hidden_states": draw.normal(4, 8, 6, 8),
        "timestep": draw.training_steps(4),
        "num_frames": 2,
    }
    return Blueprint(transformers.TransformerTemporalModel, config, inputs)


def _spatio_temporal(draw: Draw) -> Blueprint:
    """Spatial and temporal blocks in turns, blended after each pair."""
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 32,
        "num_layers": BLOCKS,
        "cross_attention_dim": 16,
    }
    inputs = {
        "hidden_states": draw.normal(6, 32, 4, 6),
        "encoder_hidden_states": draw.normal(6, 1, 16),
        "image_only_indicator": torch.zeros(2, 3),
    }
    return Blueprint(TransformerSpatioTemporalModel, config, inputs)


def _uvit(draw: Draw) -> Blueprint:
    """Codes in, logits out, with convolutions around the transformer layers."""
    config = {
        "hidden_size": 32,
        "use_bias": False,
        "hidden_dropout": 0.0,
        "cond_embed_dim": 16,
        "micro_cond_encode_dim": 4,
        "micro_cond_embed_dim": 20,
        "encoder_hidden_size": 16,
        "vocab_size": 40,
        "codebook_size": 32,
        "in_channels": 16,
        "block_out_channels": 16,
        "num_res_blocks": 2,
        "block_num_heads": 2,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "sample_size": 8,
    }
    inputs = {
        "input_ids": draw.integers(32, 2, 4, 6),
        "encoder_hidden_states": draw.normal(2, 10, 16),
        "pooled_text_emb": draw.normal(2, 16),
        "micro_conds": draw.uniform(2, 5),
    }
    return Blueprint(UVit2DModel, config, inputs)


CASES: tuple[ZooCase, ...] = (
    ZooCase("Transformer2DModel", _spatial, timestep_names=()),
    ZooCase("Transformer2DModel:vectorized", _vectorized, timestep_limit=100),
    ZooCase("Transformer2DModel:patches", _patches),
    ZooCase("DreamLiteTransformer2DModel", _dream_lite, timestep_names=()),
    ZooCase("DualTransformer2DModel", _dual, timestep_names=()),
    ZooCase("TransformerTemporalModel", _temporal),
    ZooCase("TransformerSpatioTemporalModel", _spatio_temporal, timestep_names=()),
    ZooCase("UVit2DModel", _uvit, latent_names=("input_ids",), timestep_names=()),
)
