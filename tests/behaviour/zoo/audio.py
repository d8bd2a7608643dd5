"""Music and speech: Stable Audio, ACE-Step, LongCat-Audio, MiniMax-Music, T5 FiLM."""

import torch
from diffusers.models import transformers
from diffusers.models.embeddings import get_1d_rotary_pos_embed

from .case import BLOCKS, Blueprint, Inputs, ZooCase, with_sizes
from .draw import Draw


def _stable_audio_inputs(draw: Draw, *, batch: int = 2, length: int = 12, text: int = 5) -> Inputs:
    """One global token goes before the ``length`` samples, so the embedding is one longer."""
    rotary = get_1d_rotary_pos_embed(4, length + 1, use_real=True, repeat_interleave_real=False)
    return {
        "hidden_states": draw.normal(batch, 3, length),
        "timestep": draw.uniform(batch),
        "encoder_hidden_states": draw.normal(batch, text, 4),
        "global_hidden_states": draw.normal(batch, 1, 8),
        "rotary_embedding": rotary,
    }


def _stable_audio(draw: Draw) -> Blueprint:
    config = {
        "sample_size": 12,
        "in_channels": 3,
        "num_layers": BLOCKS,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "num_key_value_attention_heads": 2,
        "out_channels": 3,
        "cross_attention_dim": 4,
        "time_proj_dim": 8,
        "global_states_input_dim": 8,
        "cross_attention_input_dim": 4,
    }
    return Blueprint(transformers.StableAudioDiTModel, config, _stable_audio_inputs(draw))


def _stable_audio3_inputs(draw: Draw, *, batch: int = 2, length: int = 16, text: int = 5) -> Inputs:
    mask = torch.ones(batch, text)
    mask[0, -2:] = 0
    return {
        "hidden_states": draw.normal(batch, 4, length),
        "timestep": draw.uniform(batch),
        "encoder_hidden_states": draw.normal(batch, text, 8),
        "global_hidden_states": draw.normal(batch, 8),
        "encoder_attention_mask": mask,
        "local_add_cond": draw.normal(batch, 5, length),
    }


def _stable_audio3(draw: Draw) -> Blueprint:
    """Three learnt memory tokens stand before the samples and leave after the chain."""
    config = {
        "io_channels": 4,
        "patch_size": 1,
        "embed_dim": 32,
        "depth": BLOCKS,
        "num_heads": 2,
        "cond_token_dim": 8,
        "global_cond_dim": 8,
        "local_add_cond_dim": 5,
        "timestep_features_dim": 16,
        "ff_mult": 2.0,
        "num_memory_tokens": 3,
    }
    return Blueprint(transformers.StableAudio3DiTModel, config, _stable_audio3_inputs(draw))


def _ace_step_inputs(draw: Draw, *, batch: int = 2, length: int = 8, text: int = 6) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, length, 8),
        "timestep": draw.uniform(batch),
        "timestep_r": draw.uniform(batch),
        "encoder_hidden_states": draw.normal(batch, text, 24),
        "context_latents": draw.normal(batch, length, 16),
    }


def _ace_step(draw: Draw) -> Blueprint:
    """Sliding-window and full attention in turns."""
    config = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": BLOCKS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "in_channels": 24,
        "audio_acoustic_hidden_dim": 8,
        "patch_size": 2,
        "sliding_window": 1,
        "encoder_hidden_size": 24,
    }
    return Blueprint(transformers.AceStepTransformer1DModel, config, _ace_step_inputs(draw))


def _longcat_audio(draw: Draw) -> Blueprint:
    config = {
        "dit_dim": 64,
        "dit_depth": BLOCKS,
        "dit_heads": 4,
        "dit_text_dim": 32,
        "latent_dim": 8,
        "text_conv": False,
    }
    inputs = {
        "hidden_states": draw.normal(2, 16, 8),
        "encoder_hidden_states": draw.normal(2, 10, 32),
        "encoder_attention_mask": torch.ones(2, 10, dtype=torch.bool),
        "attention_mask": torch.ones(2, 16, dtype=torch.bool),
        "timestep": torch.ones(2),
    }
    return Blueprint(transformers.LongCatAudioDiTTransformer, config, inputs)


def _minimax_music(draw: Draw) -> Blueprint:
    config = {
        "in_channels": 8,
        "condition_dim": 16,
        "num_layers": BLOCKS,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "ff_inner_dim": 32,
        "rotary_dim": 4,
        "fourier_embedding_dim": 8,
    }
    inputs = {
        "hidden_states": draw.normal(2, 8, 24),
        "encoder_hidden_states": draw.normal(2, 24, 16),
        "timestep": torch.full((2,), 0.5),
    }
    return Blueprint(transformers.MiniMaxMusic3Transformer1DModel, config, inputs)


def _minimax_depth_decoder(draw: Draw) -> Blueprint:
    """An autoregressive decoder: no noise and no time."""
    config = {
        "hidden_size": 32,
        "num_layers": BLOCKS,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "audio_vocab_size": 16,
        "num_codebooks": 4,
    }
    inputs = {"inputs_embeds": draw.normal(2, 5, 32)}
    return Blueprint(transformers.MiniMaxMusic3RVQDepthDecoder, config, inputs)


def _t5_film(draw: Draw) -> Blueprint:
    config = {
        "input_dims": 8,
        "targets_length": 16,
        "d_model": 16,
        "num_layers": BLOCKS,
        "num_heads": 2,
        "d_kv": 8,
        "d_ff": 32,
        "dropout_rate": 0.1,
    }
    inputs = {
        "encodings_and_masks": [(draw.normal(2, length, 16), torch.ones(2, length)) for length in (6, 5)],
        "decoder_input_tokens": draw.normal(2, 16, 8),
        "decoder_noise_time": draw.uniform(2),
    }
    return Blueprint(transformers.T5FilmDecoder, config, inputs)


CASES: tuple[ZooCase, ...] = (
    ZooCase(
        "StableAudioDiTModel",
        _stable_audio,
        resize=with_sizes(_stable_audio_inputs, batch=3, length=20, text=7),
    ),
    ZooCase(
        "StableAudio3DiTModel",
        _stable_audio3,
        resize=with_sizes(_stable_audio3_inputs, batch=3, length=20, text=7),
    ),
    ZooCase(
        "AceStepTransformer1DModel",
        _ace_step,
        timestep_names=("timestep", "timestep_r"),
        resize=with_sizes(_ace_step_inputs, batch=3, length=12, text=7),
    ),
    ZooCase("LongCatAudioDiTTransformer", _longcat_audio),
    ZooCase("MiniMaxMusic3Transformer1DModel", _minimax_music),
    ZooCase(
        "MiniMaxMusic3RVQDepthDecoder",
        _minimax_depth_decoder,
        latent_names=("inputs_embeds",),
        timestep_names=(),
    ),
    ZooCase(
        "T5FilmDecoder",
        _t5_film,
        latent_names=("decoder_input_tokens",),
        timestep_names=("decoder_noise_time",),
    ),
)
