"""Wan and the video models built on it: VACE, ChronoEdit, SkyReels."""

from typing import Any

from diffusers.models import transformers

from .case import BLOCKS, Blueprint, Config, Inputs, ZooCase, with_sizes
from .draw import Draw

OTHER_SIZES = {"batch": 3, "frames": 3, "height": 12, "width": 8, "text": 7}

LONG_TEXT = 512
"""With image tokens in front, Wan's attention takes exactly the last 512 tokens as text."""


def wan_config(**changes: Any) -> Config:
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
        "rope_max_seq_len": 32,
    }
    return config | changes


def _inputs(
    draw: Draw, *, batch: int = 2, frames: int = 2, height: int = 8, width: int = 12, text: int = 10
) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, 4, frames, height, width),
        "timestep": draw.training_steps(batch),
        "encoder_hidden_states": draw.normal(batch, text, 16),
    }


def _wan(draw: Draw) -> Blueprint:
    return Blueprint(transformers.WanTransformer3DModel, wan_config(), _inputs(draw))


def _image_to_video(draw: Draw) -> Blueprint:
    config = wan_config(image_dim=16, added_kv_proj_dim=24)
    image = {"encoder_hidden_states_image": draw.normal(2, 257, 16)}
    inputs = _inputs(draw, text=LONG_TEXT) | image
    return Blueprint(transformers.WanTransformer3DModel, config, inputs)


def _per_token_time_inputs(
    draw: Draw, *, batch: int = 2, frames: int = 2, height: int = 8, width: int = 12, text: int = 10
) -> Inputs:
    inputs = _inputs(draw, batch=batch, frames=frames, height=height, width=width, text=text)
    tokens = frames * height * width // 4
    return inputs | {"timestep": draw.integers(1000, batch, tokens)}


def _text_image_to_video(draw: Draw) -> Blueprint:
    """Wan 2.2 5B: a time for each token, so that the first frame can be clean."""
    inputs = _per_token_time_inputs(draw)
    return Blueprint(transformers.WanTransformer3DModel, wan_config(), inputs)


def _vace_inputs(
    draw: Draw, *, batch: int = 2, frames: int = 2, height: int = 8, width: int = 12, text: int = 10
) -> Inputs:
    inputs = _inputs(draw, batch=batch, frames=frames, height=height, width=width, text=text)
    return inputs | {"control_hidden_states": draw.normal(batch, 8, frames, height, width)}


def _vace(draw: Draw) -> Blueprint:
    """Control blocks run before the chain; their outputs are added after every second block."""
    config = wan_config(vace_layers=[0, 2], vace_in_channels=8)
    return Blueprint(transformers.WanVACETransformer3DModel, config, _vace_inputs(draw))


def _chrono_edit(draw: Draw) -> Blueprint:
    config = wan_config(rope_temporal_skip_len=8)
    return Blueprint(transformers.ChronoEditTransformer3DModel, config, _inputs(draw))


def _sky_reels(draw: Draw) -> Blueprint:
    return Blueprint(transformers.SkyReelsV2Transformer3DModel, wan_config(), _inputs(draw))


def _sky_reels_diffusion_forcing(draw: Draw) -> Blueprint:
    """A time for each frame, and the frame rate as a list of ints."""
    config = wan_config(inject_sample_info=True)
    inputs = _inputs(draw, batch=1) | {
        "timestep": draw.integers(1000, 1, 2),
        "enable_diffusion_forcing": True,
        "fps": [1],
    }
    return Blueprint(transformers.SkyReelsV2Transformer3DModel, config, inputs)


_resize = with_sizes(_inputs, **OTHER_SIZES)

CASES: tuple[ZooCase, ...] = (
    ZooCase("WanTransformer3DModel", _wan, resize=_resize),
    ZooCase("WanTransformer3DModel:i2v", _image_to_video),
    ZooCase(
        "WanTransformer3DModel:ti2v-2.2",
        _text_image_to_video,
        resize=with_sizes(_per_token_time_inputs, **OTHER_SIZES),
    ),
    ZooCase(
        "WanVACETransformer3DModel",
        _vace,
        resize=with_sizes(_vace_inputs, **OTHER_SIZES),
    ),
    ZooCase("ChronoEditTransformer3DModel", _chrono_edit, resize=_resize),
    ZooCase("SkyReelsV2Transformer3DModel", _sky_reels, resize=_resize),
    ZooCase("SkyReelsV2Transformer3DModel:df", _sky_reels_diffusion_forcing),
)
