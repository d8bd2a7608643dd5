"""A call of the embedded transformer such as its pipeline makes, for capture and export."""

from typing import Any

import torch

from .conditioning import class_embeddings
from .latents import NUM_TOKENS, TOKEN_WIDTH


def example_inputs(batch: int = 10) -> dict[str, Any]:
    """Keyword arguments: hidden_states [batch,49,16], timestep [batch] (1 to 0), embeddings, position ids.

    The tensors are float32 on the CPU; hidden_states is random.

    Example:
        >>> from fxcache.embedded import example_inputs
        >>> inputs = example_inputs(batch=2)
        >>> inputs["hidden_states"].shape, inputs["timestep"]
        (torch.Size([2, 49, 16]), tensor([1., 1.]))
    """
    prompt, pooled = class_embeddings([i % 10 for i in range(batch)])
    return {
        "hidden_states": torch.randn(batch, NUM_TOKENS, TOKEN_WIDTH),
        "timestep": torch.ones(batch),
        "guidance": None,
        "pooled_projections": pooled,
        "encoder_hidden_states": prompt,
        "txt_ids": torch.zeros(prompt.shape[1], 3),
        "img_ids": torch.zeros(NUM_TOKENS, 3),
        "joint_attention_kwargs": {},
        "return_dict": False,
    }
