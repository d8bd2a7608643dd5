"""Small FLUX, Wan and Qwen-Image, and a run of a few steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models import transformers
from torch import Tensor, nn

import fxcache
from tests.behaviour.zoo.flux import image_ids

STEPS = 8
TOKENS = 24  # of the picture; of the text 8
Inputs = dict[str, Any]
Call = Callable[[Tensor, float], Inputs]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flux() -> nn.Module:
    torch.manual_seed(0)
    return transformers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=[4, 4, 8],
        pooled_projection_dim=32,
    ).eval()


def flux_call(prompt: int = 0) -> tuple[Tensor, Call]:
    """Where a run begins, and what the model is given of a sample and a time from 1 to 0."""
    draw = seeded(10 + prompt)
    sample = torch.randn(1, TOKENS, 4, generator=draw)
    fixed = {
        "encoder_hidden_states": torch.randn(1, 8, 32, generator=draw),
        "pooled_projections": torch.randn(1, 32, generator=draw),
        "img_ids": image_ids(4, 6),
        "txt_ids": torch.zeros(8, 3),
    }
    return sample, lambda x, t: {"hidden_states": x, "timestep": torch.tensor([t]), **fixed}


def wan(cls: str = "WanTransformer3DModel") -> nn.Module:
    torch.manual_seed(0)
    return getattr(transformers, cls)(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        freq_dim=32,
        ffn_dim=32,
        num_layers=4,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    ).eval()


def wan_call(prompt: int = 0, per_token: bool = False) -> tuple[Tensor, Call]:
    """With `per_token` the tokens of the first frame are clean: their time is 0."""
    draw = seeded(20 + prompt)
    sample = torch.randn(1, 4, 2, 8, 12, generator=draw)
    text = torch.randn(1, 10, 16, generator=draw)
    noisy = (torch.arange(48) >= 24).to(torch.float32)[None]

    def call(x: Tensor, t: float) -> Inputs:
        time = noisy * 1000 * t if per_token else torch.tensor([1000 * t])
        return {"hidden_states": x, "timestep": time, "encoder_hidden_states": text}

    return sample, call


def qwen() -> nn.Module:
    torch.manual_seed(0)
    return transformers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=4,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
    ).eval()


def qwen_call(prompt: int = 0) -> tuple[Tensor, Call]:
    draw = seeded(30 + prompt)
    sample = torch.randn(1, TOKENS, 16, generator=draw)
    fixed = {
        "encoder_hidden_states": torch.randn(1, 8, 16, generator=draw),
        "encoder_hidden_states_mask": torch.ones(1, 8, dtype=torch.int64),
        "img_shapes": [[(1, 4, 6)]],
    }
    return sample, lambda x, t: {"hidden_states": x, "timestep": torch.tensor([t]), **fixed}


def run(model: Any, start: tuple[Tensor, Call], steps: int = STEPS) -> list[Tensor]:
    """What the model returns at each step of an Euler sampler."""
    sample, call = start
    returned: list[Tensor] = []
    with torch.no_grad():
        for step in range(steps):
            (change,) = model(**call(sample, 1 - step / steps), return_dict=False)
            returned.append(change)
            sample = sample - change[..., : sample.shape[-1]].reshape(sample.shape) / steps
    return returned


def farthest(some: list[Tensor], others: list[Tensor]) -> float:
    """The largest absolute difference of any step."""
    return max(float((a - b).abs().max()) for a, b in zip(some, others, strict=True))


def cached(model: nn.Module, threshold: float, **options: Any) -> Any:
    changes = options.pop("changes", {})
    config = fxcache.CacheConfig(
        fn_compute_blocks=1,
        max_warmup_steps=2,
        max_continuous_cached_steps=2,
        residual_diff_threshold=threshold,
    )
    return fxcache.transform(model, config.replace(**changes), **options)


def hits(model: Any) -> str:
    return "".join("H" if hit else "." for hit in next(iter(model.stats().contexts.values())).hits)


def diffs(model: Any) -> dict[int, float]:
    return dict(next(iter(model.stats().contexts.values())).residual_diffs)
