"""The untrained network."""

from diffusers.models import PixArtTransformer2DModel
from torch import nn

from .conditioning import PROMPT_WIDTH
from .latents import CHANNELS, IMAGE_SIZE

_HEADS = 3
_HEAD_WIDTH = 48


def new_transformer() -> PixArtTransformer2DModel:
    """PixArt in small: 11 blocks of 3 heads of 48 on 8x8 patches of 4x4 pixels."""
    model = PixArtTransformer2DModel(
        num_layers=11,
        num_attention_heads=_HEADS,
        attention_head_dim=_HEAD_WIDTH,
        cross_attention_dim=_HEADS * _HEAD_WIDTH,
        caption_channels=PROMPT_WIDTH,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        sample_size=IMAGE_SIZE,
        patch_size=4,
    )
    _zero_init(model)
    return model


def is_block_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter of PixArt is a matrix of its blocks."""
    return name.startswith("transformer_blocks") and parameter.ndim == 2 and "scale_shift_table" not in name


def _zero_init(model: PixArtTransformer2DModel) -> None:
    """As PixArt starts: no cross-attention, no modulation by the time, no output."""
    for name, parameter in model.named_parameters():
        if name.startswith(("adaln_single.linear", "proj_out")) or "attn2.to_out" in name:
            nn.init.zeros_(parameter)
