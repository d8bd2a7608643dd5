"""MMDiT image models: SD3, AuraFlow, HiDream."""

from typing import Any

from diffusers.models import transformers

from .case import BLOCKS, Blueprint, Config, Inputs, ZooCase, with_sizes
from .draw import Draw

OTHER_SIZES = {"batch": 3, "height": 12, "width": 20, "text": 7}


def _sd3_config(**changes: Any) -> Config:
    config = {
        "sample_size": 16,
        "patch_size": 2,
        "in_channels": 4,
        "num_layers": BLOCKS,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "caption_projection_dim": 32,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 64,
        "out_channels": 4,
        "pos_embed_max_size": 24,
        "dual_attention_layers": (),
        "qk_norm": None,
    }
    return config | changes


def _sd3_inputs(draw: Draw, *, batch: int = 2, height: int = 16, width: int = 12, text: int = 10) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, 4, height, width),
        "encoder_hidden_states": draw.normal(batch, text, 32),
        "pooled_projections": draw.normal(batch, 64),
        "timestep": draw.training_steps(batch),
    }


def _sd3(draw: Draw) -> Blueprint:
    return Blueprint(transformers.SD3Transformer2DModel, _sd3_config(), _sd3_inputs(draw))


def _sd35_controlnet_inputs(
    draw: Draw, *, batch: int = 2, height: int = 16, width: int = 12, text: int = 10
) -> Inputs:
    inputs = _sd3_inputs(draw, batch=batch, height=height, width=width, text=text)
    samples = [draw.normal(batch, height * width // 4, 32) for _ in range(2)]
    return inputs | {"block_controlnet_hidden_states": samples}


def _sd35_controlnet(draw: Draw) -> Blueprint:
    config = _sd3_config(dual_attention_layers=(0, 1), qk_norm="rms_norm")
    return Blueprint(transformers.SD3Transformer2DModel, config, _sd35_controlnet_inputs(draw))


def _aura_flow_inputs(
    draw: Draw, *, batch: int = 2, height: int = 16, width: int = 12, text: int = 10
) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, 4, height, width),
        "encoder_hidden_states": draw.normal(batch, text, 24),
        "timestep": draw.uniform(batch),
    }


def _aura_flow(draw: Draw) -> Blueprint:
    config = {
        "sample_size": 32,
        "patch_size": 2,
        "in_channels": 4,
        "num_mmdit_layers": BLOCKS,
        "num_single_dit_layers": BLOCKS,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "joint_attention_dim": 24,
        "caption_projection_dim": 32,
        "out_channels": 4,
        "pos_embed_max_size": 256,
    }
    return Blueprint(transformers.AuraFlowTransformer2DModel, config, _aura_flow_inputs(draw))


def _hidream(draw: Draw) -> Blueprint:
    batch, text = 2, 8
    config = {
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": BLOCKS,
        "num_single_layers": BLOCKS,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "caption_channels": [8, 4],
        "text_emb_dim": 8,
        "num_routed_experts": 2,
        "num_activated_experts": 2,
        "axes_dims_rope": (4, 2, 2),
        "max_resolution": (16, 16),
        "llama_layers": tuple(range(2 * BLOCKS)),
        "force_inference_output": True,
    }
    inputs = {
        "hidden_states": draw.normal(batch, 4, 16, 16),
        "encoder_hidden_states_t5": draw.normal(batch, text, 8),
        "encoder_hidden_states_llama3": draw.normal(2 * BLOCKS, batch, text, 4),
        "pooled_embeds": draw.normal(batch, 8),
        "timesteps": draw.training_steps(batch),
    }
    return Blueprint(transformers.HiDreamImageTransformer2DModel, config, inputs)


CASES: tuple[ZooCase, ...] = (
    ZooCase(
        "SD3Transformer2DModel",
        _sd3,
        resize=with_sizes(_sd3_inputs, **OTHER_SIZES),
    ),
    ZooCase(
        "SD3Transformer2DModel:3.5+controlnet",
        _sd35_controlnet,
        resize=with_sizes(_sd35_controlnet_inputs, **OTHER_SIZES),
    ),
    ZooCase(
        "AuraFlowTransformer2DModel",
        _aura_flow,
        resize=with_sizes(_aura_flow_inputs, **OTHER_SIZES),
    ),
    ZooCase("HiDreamImageTransformer2DModel", _hidream, timestep_names=("timesteps",)),
)
