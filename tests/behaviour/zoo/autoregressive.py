"""Video models that go on from their own past: AnyFlow, AnyFlow FAR, Helios."""

import torch
from diffusers.models import transformers

from .case import BLOCKS, Blueprint, Config, Inputs, ZooCase, with_sizes
from .draw import Draw

FLOW_TIMES = ("timestep", "r_timestep")


def _flow_config() -> Config:
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 16,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": BLOCKS,
        "cross_attn_norm": True,
        "rope_max_seq_len": 32,
        "gate_value": 0.25,
        "deltatime_type": "r",
    }


def _flow_inputs(
    draw: Draw, *, batch: int = 2, frames: int = 2, height: int = 8, width: int = 12, text: int = 10
) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, frames, 4, height, width),
        "timestep": torch.full((batch, frames), 500.0),
        "r_timestep": torch.full((batch, frames), 250.0),
        "encoder_hidden_states": draw.normal(batch, text, 16),
    }


def _any_flow(draw: Draw) -> Blueprint:
    return Blueprint(transformers.AnyFlowTransformer3DModel, _flow_config(), _flow_inputs(draw))


def _far_blueprint(inputs: Inputs) -> Blueprint:
    config = _flow_config() | {"compressed_patch_size": (1, 4, 4), "full_chunk_limit": 3}
    return Blueprint(transformers.AnyFlowFARTransformer3DModel, config, inputs)


def _far_inputs(draw: Draw) -> Inputs:
    inputs = _flow_inputs(draw, batch=1, frames=4, height=16, width=16, text=12)
    return inputs | {"chunk_partition": [2, 2]}


def _any_flow_far(draw: Draw) -> Blueprint:
    """The model builds its block mask from the chunks: the hardest glue in the zoo to trace."""
    return _far_blueprint(_far_inputs(draw))


def _any_flow_far_prebuilt(draw: Draw) -> Blueprint:
    """The same block mask, built beforehand and passed as an input."""
    mask = transformers.transformer_anyflow_far._build_anyflow_far_causal_block_mask(
        chunk_partition=[2, 2],
        height=16,
        width=16,
        patch_size=(1, 2, 2),
        compressed_patch_size=(1, 4, 4),
        full_chunk_limit=3,
        mode="train",
        has_clean_context=False,
        device=torch.device("cpu"),
    )
    return _far_blueprint(_far_inputs(draw) | {"attention_mask": mask})


def _helios(draw: Draw) -> Blueprint:
    batch, frames, height, width = 1, 2, 16, 16
    config = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 4,
        "out_channels": 4,
        "text_dim": 16,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": BLOCKS,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_dim": (4, 4, 4),
        "has_multi_term_memory_patch": True,
        "guidance_cross_attn": True,
        "zero_history_timestep": True,
        "is_amplify_history": False,
    }
    inputs = {
        "hidden_states": draw.normal(batch, 4, frames, height, width),
        "timestep": draw.training_steps(batch),
        "encoder_hidden_states": draw.normal(batch, 12, 16),
        "indices_hidden_states": torch.ones(batch, frames),
        "indices_latents_history_short": torch.ones(batch, 1),
        "indices_latents_history_mid": torch.ones(batch, 1),
        "indices_latents_history_long": torch.ones(batch, 4),
        "latents_history_short": draw.normal(batch, 4, 1, height, width),
        "latents_history_mid": draw.normal(batch, 4, 1, height, width),
        "latents_history_long": draw.normal(batch, 4, 4, height, width),
    }
    return Blueprint(transformers.HeliosTransformer3DModel, config, inputs)


CASES: tuple[ZooCase, ...] = (
    ZooCase(
        "AnyFlowTransformer3DModel",
        _any_flow,
        timestep_names=FLOW_TIMES,
        resize=with_sizes(_flow_inputs, batch=3, frames=3, height=12, width=8, text=7),
    ),
    ZooCase("AnyFlowFARTransformer3DModel", _any_flow_far, timestep_names=FLOW_TIMES),
    ZooCase(
        "AnyFlowFARTransformer3DModel:prebuilt-mask",
        _any_flow_far_prebuilt,
        timestep_names=FLOW_TIMES,
    ),
    ZooCase("HeliosTransformer3DModel", _helios),
)
