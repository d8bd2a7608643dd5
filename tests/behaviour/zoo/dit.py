"""DiT, PixArt and the unCLIP prior: one stream of adaptive-norm blocks."""

import torch
from diffusers.models import transformers

from .case import BLOCKS, Blueprint, Inputs, ZooCase, with_sizes
from .draw import Draw


def _dit(draw: Draw) -> Blueprint:
    config = {
        "in_channels": 4,
        "out_channels": 8,
        "activation_fn": "gelu-approximate",
        "num_attention_heads": 2,
        "attention_head_dim": 4,
        "attention_bias": True,
        "num_layers": BLOCKS,
        "norm_type": "ada_norm_zero",
        "num_embeds_ada_norm": 8,
        "patch_size": 2,
        "sample_size": 8,
    }
    inputs = {
        "hidden_states": draw.normal(3, 4, 8, 8),
        "timestep": draw.training_steps(3),
        "class_labels": draw.integers(4, 3),
    }
    return Blueprint(transformers.DiTTransformer2DModel, config, inputs)


def _pixart_inputs(draw: Draw, *, batch: int = 3, height: int = 8, width: int = 12, text: int = 10) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, 4, height, width),
        "timestep": draw.training_steps(batch),
        "encoder_hidden_states": draw.normal(batch, text, 8),
        "encoder_attention_mask": torch.ones(batch, text),
        "added_cond_kwargs": {"aspect_ratio": None, "resolution": None},
    }


def _pixart(draw: Draw) -> Blueprint:
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
        "use_additional_conditions": False,
        "caption_channels": 8,
    }
    return Blueprint(transformers.PixArtTransformer2DModel, config, _pixart_inputs(draw))


def _prior(draw: Draw) -> Blueprint:
    """The sample is one embedding; the chain sees it among text, time and query tokens."""
    config = {
        "num_attention_heads": 2,
        "attention_head_dim": 4,
        "num_layers": BLOCKS,
        "embedding_dim": 8,
        "num_embeddings": 7,
        "additional_embeddings": 4,
    }
    inputs = {
        "hidden_states": draw.normal(3, 8),
        "timestep": torch.full((3,), 2),
        "proj_embedding": draw.normal(3, 8),
        "encoder_hidden_states": draw.normal(3, 7, 8),
    }
    return Blueprint(transformers.PriorTransformer, config, inputs)


CASES: tuple[ZooCase, ...] = (
    ZooCase("DiTTransformer2DModel", _dit),
    ZooCase(
        "PixArtTransformer2DModel",
        _pixart,
        resize=with_sizes(_pixart_inputs, batch=2, height=12, width=16, text=7),
    ),
    ZooCase("PriorTransformer", _prior),
)
