"""FLUX.1 and its descendants: dual-stream blocks, then single-stream blocks."""

from functools import partial
from typing import Any

import torch
from diffusers.models import transformers
from torch import Tensor

from .case import BLOCKS, Blueprint, Config, Inputs, ZooCase, with_sizes
from .draw import Draw

OTHER_SIZES = {"batch": 3, "height": 6, "width": 8, "text": 7}


def image_ids(height: int, width: int) -> Tensor:
    """(height * width, 3) coordinates: modality, row, column."""
    ids = torch.zeros(height, width, 3)
    ids[..., 1] += torch.arange(height)[:, None]
    ids[..., 2] += torch.arange(width)[None]
    return ids.reshape(height * width, 3)


def _config(**changes: Any) -> Config:
    config = {
        "patch_size": 1,
        "in_channels": 4,
        "num_layers": BLOCKS,
        "num_single_layers": BLOCKS,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "axes_dims_rope": [4, 4, 8],
    }
    return config | changes


def _inputs(draw: Draw, *, batch: int = 2, height: int = 4, width: int = 6, text: int = 10) -> Inputs:
    return {
        "hidden_states": draw.normal(batch, height * width, 4),
        "encoder_hidden_states": draw.normal(batch, text, 32),
        "img_ids": image_ids(height, width),
        "txt_ids": torch.zeros(text, 3),
        "timestep": draw.uniform(batch),
    }


def _pooled_inputs(draw: Draw, *, batch: int = 2, **sizes: int) -> Inputs:
    return _inputs(draw, batch=batch, **sizes) | {"pooled_projections": draw.normal(batch, 32)}


def _flux(draw: Draw) -> Blueprint:
    config = _config(pooled_projection_dim=32)
    return Blueprint(transformers.FluxTransformer2DModel, config, _pooled_inputs(draw))


def _controlnet_inputs(
    draw: Draw, *, batch: int = 2, height: int = 4, width: int = 6, text: int = 10
) -> Inputs:
    inputs = _pooled_inputs(draw, batch=batch, height=height, width=width, text=text)
    samples = [draw.normal(batch, height * width, 32) for _ in range(4)]
    return inputs | {
        "guidance": torch.full((batch,), 3.5),
        "controlnet_block_samples": samples[:2],
        "controlnet_single_block_samples": samples[2:],
    }


def _flux_dev_controlnet(draw: Draw) -> Blueprint:
    config = _config(pooled_projection_dim=32, guidance_embeds=True)
    return Blueprint(transformers.FluxTransformer2DModel, config, _controlnet_inputs(draw))


def _bria(draw: Draw) -> Blueprint:
    config = _config(pooled_projection_dim=None)
    return Blueprint(transformers.BriaTransformer2DModel, config, _inputs(draw))


def _chroma(draw: Draw) -> Blueprint:
    config = _config(
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    return Blueprint(transformers.ChromaTransformer2DModel, config, _inputs(draw))


def _longcat_image(draw: Draw) -> Blueprint:
    config = _config(pooled_projection_dim=32)
    return Blueprint(transformers.LongCatImageTransformer2DModel, config, _inputs(draw))


def _ovis_image(draw: Draw) -> Blueprint:
    config = _config(out_channels=4)
    return Blueprint(transformers.OvisImageTransformer2DModel, config, _inputs(draw))


def _fibo_inputs(draw: Draw, *, batch: int = 2, text: int = 10, **sizes: int) -> Inputs:
    layers = [draw.normal(batch, text, 24) for _ in range(2 * BLOCKS)]
    inputs = _inputs(draw, batch=batch, text=text, **sizes)
    return inputs | {"text_encoder_layers": layers}


def _bria_fibo(draw: Draw) -> Blueprint:
    config = _config(text_encoder_dim=24)
    return Blueprint(transformers.BriaFiboTransformer2DModel, config, _fibo_inputs(draw))


_resize_plain = with_sizes(_inputs, **OTHER_SIZES)
_case = partial(ZooCase, resize=_resize_plain)

CASES: tuple[ZooCase, ...] = (
    ZooCase(
        "FluxTransformer2DModel",
        _flux,
        resize=with_sizes(_pooled_inputs, **OTHER_SIZES),
    ),
    ZooCase(
        "FluxTransformer2DModel:dev+controlnet",
        _flux_dev_controlnet,
        resize=with_sizes(_controlnet_inputs, **OTHER_SIZES),
    ),
    _case("BriaTransformer2DModel", _bria),
    _case("ChromaTransformer2DModel", _chroma),
    _case("LongCatImageTransformer2DModel", _longcat_image),
    _case("OvisImageTransformer2DModel", _ovis_image),
    ZooCase(
        "BriaFiboTransformer2DModel",
        _bria_fibo,
        resize=with_sizes(_fibo_inputs, **OTHER_SIZES),
    ),
)
