"""Recent single-stream image models: Fibo 2, Ernie, Ideogram, Nucleus, Krea, OmniGen, PRX."""

import torch
from diffusers.models import transformers

from .case import BLOCKS, Blueprint, Inputs, ZooCase, with_sizes
from .draw import Draw
from .flux import image_ids


def _fibo2(draw: Draw) -> Blueprint:
    """A perceiver compresses the text, and text is injected again at blocks 1 and 3."""
    config = {
        "in_channels": 4,
        "patch_size": 2,
        "dim": 32,
        "n_layers": BLOCKS,
        "n_refiner_layers": 2,
        "n_heads": 2,
        "cap_feat_dim": 24,
        "injection_layer_ids": (1, 3),
        "perceiver_num_layers": 2,
        "min_num_gist_tokens": 4,
        "max_num_gist_tokens": 8,
        "gist_step": 4,
        "gist_min_text_len": 4,
        "gist_max_text_len": 32,
        "axes_dims": (4, 6, 6),
        "axes_lens": (64, 32, 32),
    }
    inputs = {
        "hidden_states": draw.normal(2, 4, 8, 12),
        "timestep": draw.uniform(2),
        "encoder_hidden_states": draw.normal(2, 3, 10, 24),
    }
    return Blueprint(transformers.BriaFibo2Transformer2DModel, config, inputs)


def _ernie(draw: Draw) -> Blueprint:
    """The stream is (tokens, batch, channels)."""
    config = {
        "hidden_size": 16,
        "num_attention_heads": 1,
        "num_layers": BLOCKS,
        "ffn_hidden_size": 16,
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 1,
        "text_in_dim": 16,
        "rope_theta": 256,
        "rope_axes_dim": (8, 4, 4),
        "eps": 1e-6,
        "qk_layernorm": True,
    }
    inputs = {
        "hidden_states": draw.normal(2, 16, 4, 6),
        "timestep": torch.ones(2),
        "text_bth": draw.normal(2, 10, 16),
        "text_lens": torch.tensor([10, 10]),
    }
    return Blueprint(transformers.ErnieImageTransformer2DModel, config, inputs)


def _ideogram4(draw: Draw) -> Blueprint:
    """Four text tokens and a 2x2 image in one sequence, told apart by an indicator."""
    text, image = 4, 4
    rows_and_columns = torch.tensor([[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]])
    positions = torch.zeros(1, text + image, 3, dtype=torch.long)
    positions[:, :text] = torch.arange(text)[:, None]
    positions[:, text:] = transformers.transformer_ideogram4.IMAGE_POSITION_OFFSET + rows_and_columns
    indicator = torch.full((1, text + image), transformers.transformer_ideogram4.OUTPUT_IMAGE_INDICATOR)
    indicator[:, :text] = transformers.transformer_ideogram4.LLM_TOKEN_INDICATOR
    config = {
        "in_channels": 16,
        "num_layers": BLOCKS,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "intermediate_size": 32,
        "adaln_dim": 16,
        "llm_features_dim": 24,
        "rope_theta": 10000,
        "mrope_section": (2, 1, 1),
        "norm_eps": 1e-5,
    }
    inputs = {
        "hidden_states": draw.normal(1, text + image, 16),
        "encoder_hidden_states": draw.normal(1, text + image, 24),
        "timestep": torch.tensor([0.5]),
        "position_ids": positions,
        "segment_ids": torch.ones(1, text + image, dtype=torch.long),
        "indicator": indicator,
    }
    return Blueprint(transformers.Ideogram4Transformer2DModel, config, inputs)


def _nucleus_inputs(draw: Draw, *, batch: int = 2, height: int = 4, width: int = 6, text: int = 8) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, height * width, 16),
        "encoder_hidden_states": draw.normal(batch, text, 16),
        "encoder_hidden_states_mask": torch.ones(batch, text, dtype=torch.long),
        "timestep": draw.uniform(batch),
        "img_shapes": [(1, height, width)] * batch,
    }


def _nucleus(draw: Draw) -> Blueprint:
    config = {
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": BLOCKS,
        "attention_head_dim": 16,
        "num_attention_heads": 4,
        "joint_attention_dim": 16,
        "axes_dims_rope": (8, 4, 4),
        "moe_enabled": False,
        "capacity_factors": [2.0] * BLOCKS,
    }
    model_class = transformers.NucleusMoEImageTransformer2DModel
    return Blueprint(model_class, config, _nucleus_inputs(draw))


def _nucleus_moe(draw: Draw) -> Blueprint:
    """Every block but the first has experts that choose their tokens."""
    dense = _nucleus(draw)
    experts = {
        "moe_enabled": True,
        "dense_moe_strategy": "leave_first_block_dense",
        "num_experts": 4,
        "moe_intermediate_dim": 16,
    }
    return dense._replace(config=dense.config | experts)


def _krea2_inputs(draw: Draw, *, batch: int = 2, height: int = 4, width: int = 6, text: int = 10) -> Inputs:
    positions = torch.cat([torch.zeros(text, 3), image_ids(height, width)])
    return {
        "hidden_states": draw.normal(batch, height * width, 16),
        "encoder_hidden_states": draw.normal(batch, text, 3, 32),
        "timestep": draw.uniform(batch),
        "position_ids": positions,
    }


def _krea2(draw: Draw) -> Blueprint:
    """The text of three encoder layers is fused by two block lists of its own."""
    config = {
        "in_channels": 16,
        "num_layers": BLOCKS,
        "attention_head_dim": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "timestep_embed_dim": 16,
        "text_hidden_dim": 32,
        "num_text_layers": 3,
        "text_num_attention_heads": 4,
        "text_num_key_value_heads": 4,
        "text_intermediate_size": 48,
        "axes_dims_rope": (4, 6, 6),
    }
    return Blueprint(transformers.Krea2Transformer2DModel, config, _krea2_inputs(draw))


def _omnigen(draw: Draw) -> Blueprint:
    """16 prompt tokens (four of them an input image), one time token and a 4x6 output image."""
    batch, prompt, output = 2, 16, 24
    length = prompt + 1 + output
    config = {
        "in_channels": 4,
        "patch_size": 2,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
        "num_layers": BLOCKS,
        "pad_token_id": 0,
        "vocab_size": 100,
        "rope_scaling": {"long_factor": [1, 2, 3, 4], "short_factor": [1, 2, 3, 4]},
        "pos_embed_max_size": 16,
        "time_step_dim": 4,
    }
    inputs = {
        "hidden_states": draw.normal(batch, 4, 8, 12),
        "timestep": draw.uniform(batch),
        "input_ids": draw.integers(100, batch, prompt),
        "input_img_latents": [draw.normal(1, 4, 4, 4) for _ in range(batch)],
        "input_image_sizes": {sample: [[2, 6]] for sample in range(batch)},
        "attention_mask": torch.ones(batch, length, length),
        "position_ids": torch.arange(length).repeat(batch, 1),
    }
    return Blueprint(transformers.OmniGenTransformer2DModel, config, inputs)


def _prx_inputs(draw: Draw, *, batch: int = 2, height: int = 8, width: int = 12, text: int = 10) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, 4, height, width),
        "encoder_hidden_states": draw.normal(batch, text, 24),
        "timestep": torch.ones(batch),
    }


def _prx(draw: Draw) -> Blueprint:
    config = {
        "in_channels": 4,
        "patch_size": 2,
        "context_in_dim": 24,
        "hidden_size": 32,
        "mlp_ratio": 2.0,
        "num_heads": 2,
        "depth": BLOCKS,
        "axes_dim": [8, 8],
        "theta": 10000,
    }
    return Blueprint(transformers.PRXTransformer2DModel, config, _prx_inputs(draw))


_resize_nucleus = with_sizes(_nucleus_inputs, batch=3, height=6, width=8, text=7)

CASES: tuple[ZooCase, ...] = (
    ZooCase("BriaFibo2Transformer2DModel", _fibo2),
    ZooCase("ErnieImageTransformer2DModel", _ernie),
    ZooCase("Ideogram4Transformer2DModel", _ideogram4),
    ZooCase("NucleusMoEImageTransformer2DModel", _nucleus, resize=_resize_nucleus),
    ZooCase("NucleusMoEImageTransformer2DModel:moe", _nucleus_moe, resize=_resize_nucleus),
    ZooCase(
        "Krea2Transformer2DModel",
        _krea2,
        resize=with_sizes(_krea2_inputs, batch=3, height=6, width=8, text=7),
    ),
    ZooCase("OmniGenTransformer2DModel", _omnigen),
    ZooCase(
        "PRXTransformer2DModel",
        _prx,
        resize=with_sizes(_prx_inputs, batch=3, height=12, width=16, text=7),
    ),
)
