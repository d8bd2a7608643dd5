"""The trained transformer: 11 PixArt blocks, 144 wide, 3.9M parameters."""

from pathlib import Path
from typing import Any, Final

import torch
from diffusers.models import PixArtTransformer2DModel

NOISE_SCHEDULE: Final[dict[str, Any]] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.015,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
}
"""How noise was added in training, in the words of diffusers' schedulers.

PixArt's own, but for a softer end: 0.02 would spend an eighth of the steps on nothing but noise.
"""

DIRECTORY: Final = Path(__file__).parent / "transformer"
"""Where the trained weights lie."""


def load(directory: Path = DIRECTORY) -> PixArtTransformer2DModel:
    """The transformer in float32 and eval mode, on the CPU; its file holds float16.

    Its forward takes hidden_states [B,3,32,32], encoder_hidden_states [B,4,16],
    encoder_attention_mask [B,4] and timestep [B], 999 to 0.

    Example:
        >>> from bench.emoji_pixart import load
        >>> len(load().transformer_blocks)
        11
    """
    model: PixArtTransformer2DModel = PixArtTransformer2DModel.from_pretrained(
        directory, torch_dtype=torch.float32, local_files_only=True
    )
    return model.eval()
