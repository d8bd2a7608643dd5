"""Small real pipelines: diffusers' classes with random weights, saved and loaded as a user would.

Prompts are given as embeddings, so text encoders and tokenizers stay out; all else is there.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from torch import nn

from tests.behaviour.zoo import find
from tests.behaviour.zoo.draw import Draw
from tests.behaviour.zoo.weights import reproducible_init

from . import vaes

STEPS = 5
Inputs = dict[str, Any]


@dataclass(frozen=True)
class PipelineCase:
    """A pipeline class: its components by name, and what its call is given besides the generator.

    contexts: what `stats()` calls its trajectories.
    denoisers: names of the components that are transformed.
    """

    name: str
    components: Callable[[], dict[str, Any]]
    inputs: Callable[[Draw], Inputs]
    contexts: frozenset[str]
    denoisers: tuple[str, ...] = ("transformer",)
    settings: dict[str, Any] = field(default_factory=dict)

    def load(self) -> DiffusionPipeline:
        """Build, save with `save_pretrained`, load with `from_pretrained`, offline."""
        with reproducible_init(3):
            parts = self.components()
        for part in parts.values():
            if isinstance(part, nn.Module):
                part.eval().requires_grad_(False)
        pipe = getattr(diffusers, self.name)(**parts, **self.settings)
        with tempfile.TemporaryDirectory() as folder:
            pipe.save_pretrained(folder)
            return load(folder, {n: None for n, part in parts.items() if part is None})

    def run(self, pipe: DiffusionPipeline, seed: int = 0, **changes: Any) -> torch.Tensor:
        """What one call of `pipe` returns, as one tensor."""
        inputs: Inputs = {"num_inference_steps": STEPS, "output_type": "latent"}
        inputs |= self.inputs(Draw(7)) | {"generator": torch.Generator().manual_seed(seed)} | changes
        return torch.as_tensor(pipe(**inputs, return_dict=False)[0])


def load(folder: str, absent: dict[str, None]) -> DiffusionPipeline:
    os.environ["HF_HUB_OFFLINE"] = "1"
    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **absent)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def transformer(name: str, **changes: Any) -> nn.Module:
    """The zoo's model `name`."""
    model, _ = find(name).build()
    return type(model)(**{**model.config, **changes}) if changes else model


def without(*names: str) -> dict[str, None]:
    return dict.fromkeys(names)


def flow() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler()


def flux_parts() -> dict[str, Any]:
    return {
        "scheduler": flow(),
        "vae": vaes.image_vae(1),
        "transformer": transformer("FluxTransformer2DModel"),
        **without("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
    }


def flux_inputs(draw: Draw) -> Inputs:
    return {
        "prompt_embeds": draw.normal(1, 6, 32),
        "pooled_prompt_embeds": draw.normal(1, 32),
        "negative_prompt_embeds": draw.normal(1, 6, 32),
        "negative_pooled_prompt_embeds": draw.normal(1, 32),
        "true_cfg_scale": 2.0,
        "height": 8,
        "width": 12,
        "max_sequence_length": 6,
    }


def sd3_parts() -> dict[str, Any]:
    texts = [f"{part}{n}" for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")]
    return {
        "scheduler": flow(),
        "vae": vaes.image_vae(4),
        "transformer": transformer("SD3Transformer2DModel"),
        **without(*texts),
    }


def sd3_inputs(draw: Draw) -> Inputs:
    return {
        "prompt_embeds": draw.normal(1, 6, 32),
        "pooled_prompt_embeds": draw.normal(1, 64),
        "negative_prompt_embeds": draw.normal(1, 6, 32),
        "negative_pooled_prompt_embeds": draw.normal(1, 64),
        "height": 8,
        "width": 12,
    }


def qwen_parts() -> dict[str, Any]:
    return {
        "scheduler": flow(),
        "vae": vaes.qwen_vae(),
        "transformer": transformer("QwenImageTransformer2DModel", out_channels=4),
        **without("text_encoder", "tokenizer"),
    }


def qwen_inputs(draw: Draw) -> Inputs:
    return {
        "prompt_embeds": draw.normal(1, 6, 16),
        "prompt_embeds_mask": torch.ones(1, 6, dtype=torch.long),
        "negative_prompt_embeds": draw.normal(1, 4, 16),
        "negative_prompt_embeds_mask": torch.ones(1, 4, dtype=torch.long),
        "true_cfg_scale": 2.0,
        "height": 32,
        "width": 48,
    }


def wan_parts() -> dict[str, Any]:
    return {
        "scheduler": flow(),
        "vae": vaes.wan_vae(),
        "transformer": transformer("WanTransformer3DModel"),
        "transformer_2": transformer("WanTransformer3DModel", ffn_dim=24),
        **without("text_encoder", "tokenizer"),
    }


def wan_inputs(draw: Draw) -> Inputs:
    return {
        "prompt_embeds": draw.normal(1, 6, 16),
        "negative_prompt_embeds": draw.normal(1, 6, 16),
        "height": 16,
        "width": 32,
        "num_frames": 5,
        "num_inference_steps": 8,
    }


def pixart_parts() -> dict[str, Any]:
    return {
        "scheduler": diffusers.DPMSolverMultistepScheduler(),
        "vae": vaes.image_vae(4),
        "transformer": transformer("PixArtTransformer2DModel"),
        **without("text_encoder", "tokenizer"),
    }


def pixart_inputs(draw: Draw) -> Inputs:
    return {
        "prompt_embeds": draw.normal(1, 6, 8),
        "prompt_attention_mask": torch.ones(1, 6),
        "negative_prompt_embeds": draw.normal(1, 6, 8),
        "negative_prompt_attention_mask": torch.ones(1, 6),
        "negative_prompt": None,
        "use_resolution_binning": False,
        "height": 8,
        "width": 8,
    }


def cog_parts() -> dict[str, Any]:
    return {
        "scheduler": diffusers.CogVideoXDDIMScheduler(),
        "vae": vaes.cog_vae(),
        "transformer": transformer("CogVideoXTransformer3DModel"),
        **without("text_encoder", "tokenizer"),
    }


def cog_inputs(draw: Draw) -> Inputs:
    return {
        "prompt_embeds": draw.normal(1, 8, 8),
        "negative_prompt_embeds": draw.normal(1, 8, 8),
        "height": 64,
        "width": 64,
        "num_frames": 5,
        "max_sequence_length": 8,
    }


def hunyuan_parts() -> dict[str, Any]:
    return {
        "scheduler": flow(),
        "vae": vaes.hunyuan_vae(),
        "transformer": transformer("HunyuanVideoTransformer3DModel"),
        **without("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
    }


def hunyuan_inputs(draw: Draw) -> Inputs:
    return {
        "prompt_embeds": draw.normal(1, 6, 16),
        "pooled_prompt_embeds": draw.normal(1, 8),
        "prompt_attention_mask": torch.ones(1, 6),
        "height": 16,
        "width": 32,
        "num_frames": 5,
    }


def ltx_parts() -> dict[str, Any]:
    return {
        "scheduler": flow(),
        "vae": vaes.ltx_vae(),
        "transformer": transformer("LTXVideoTransformer3DModel"),
        **without("text_encoder", "tokenizer"),
    }


def ltx_inputs(draw: Draw) -> Inputs:
    return {
        "prompt_embeds": draw.normal(1, 6, 16),
        "prompt_attention_mask": torch.ones(1, 6, dtype=torch.bool),
        "negative_prompt_embeds": draw.normal(1, 6, 16),
        "negative_prompt_attention_mask": torch.ones(1, 6, dtype=torch.bool),
        "height": 32,
        "width": 32,
        "num_frames": 9,
    }


def audio_parts() -> dict[str, Any]:
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    return {
        "scheduler": diffusers.EDMDPMSolverMultistepScheduler(solver_order=2, prediction_type="v_prediction"),
        "vae": vaes.audio_vae(),
        "transformer": transformer("StableAudioDiTModel"),
        "projection_model": StableAudioProjectionModel(
            text_encoder_dim=4, conditioning_dim=4, min_value=0, max_value=32
        ),
        **without("text_encoder", "tokenizer"),
    }


def audio_inputs(draw: Draw) -> Inputs:
    return {
        "prompt_embeds": draw.normal(1, 4, 4),
        "negative_prompt_embeds": draw.normal(1, 4, 4),
        "attention_mask": torch.ones(1, 4, dtype=torch.long),
        "negative_attention_mask": torch.ones(1, 4, dtype=torch.long),
        "audio_end_in_s": 3.0,
    }


GUIDED = frozenset({"cond", "uncond"})
ONE = frozenset({"default"})

FLUX = PipelineCase("FluxPipeline", flux_parts, flux_inputs, GUIDED)
SD3 = PipelineCase("StableDiffusion3Pipeline", sd3_parts, sd3_inputs, ONE)
WAN = PipelineCase(
    "WanPipeline",
    wan_parts,
    wan_inputs,
    GUIDED,
    denoisers=("transformer", "transformer_2"),
    settings={"boundary_ratio": 0.5},
)
CASES: tuple[PipelineCase, ...] = (
    FLUX,
    SD3,
    PipelineCase("QwenImagePipeline", qwen_parts, qwen_inputs, GUIDED),
    WAN,
    PipelineCase("PixArtSigmaPipeline", pixart_parts, pixart_inputs, ONE),
    PipelineCase("CogVideoXPipeline", cog_parts, cog_inputs, frozenset({"cond_uncond"})),
    PipelineCase("HunyuanVideoPipeline", hunyuan_parts, hunyuan_inputs, frozenset({"cond"})),
    PipelineCase("LTXPipeline", ltx_parts, ltx_inputs, frozenset({"cond_uncond"})),
    PipelineCase("StableAudioPipeline", audio_parts, audio_inputs, ONE),
)
