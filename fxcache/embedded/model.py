"""The trained transformer: 4 double and 8 single FLUX blocks, 128 wide, 4.5M parameters."""

from pathlib import Path

import torch
from diffusers.models import FluxTransformer2DModel

_WEIGHTS = Path(__file__).parent / "transformer"


def load_transformer(dtype: torch.dtype = torch.float32) -> FluxTransformer2DModel:
    """Load the embedded transformer in `dtype`, in eval mode, from the package's own files.

    Its forward takes hidden_states [B,49,16], encoder_hidden_states [B,2,16] and
    pooled_projections [B,16]. The weights are stored as float16, so float16 loses nothing.

    Example:
        >>> import torch
        >>> from fxcache.embedded import load_transformer
        >>> model = load_transformer(torch.float16)
        >>> len(model.transformer_blocks), len(model.single_transformer_blocks), model.dtype
        (4, 8, torch.float16)
    """
    model: FluxTransformer2DModel = FluxTransformer2DModel.from_pretrained(
        _WEIGHTS, torch_dtype=dtype, local_files_only=True
    )
    return model.eval()
