"""From class labels to the embeddings and masks that PixArt's pipeline takes in place of a prompt."""

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

CLASS_NAMES: Final = (
    "Smileys & Emotion",
    "People",
    "Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
NULL_CLASS: Final = len(CLASS_NAMES)

PROMPT_TOKENS: Final = 4
PROMPT_WIDTH: Final = 16
_SCALE: Final = 4.0


def class_embeddings(labels: Sequence[int] | Tensor) -> Tensor:
    """Labels, B of them in 0..10, to prompt_embeds [B,4,16], float32.

    A token is the class as a scaled one-hot, then its place as another; 10 is no class.

    Raises:
        ValueError: there is no label, or one that is no class.
    """
    ids = torch.as_tensor(labels, dtype=torch.long)
    if ids.numel() == 0 or ids.min() < 0 or ids.max() > NULL_CLASS:
        raise ValueError(f"classes must be one or more of 0..{NULL_CLASS}, got {ids.tolist()}")
    classes = F.one_hot(ids, NULL_CLASS + 1)[:, None].expand(-1, PROMPT_TOKENS, -1)
    places = torch.eye(PROMPT_TOKENS, PROMPT_WIDTH - NULL_CLASS - 1)
    return torch.cat([classes.float(), places.expand(len(ids), -1, -1)], dim=2) * _SCALE


def prompt_mask(batch: int) -> Tensor:
    """The mask [B,4] that goes with the embeddings: every token counts."""
    return torch.ones(batch, PROMPT_TOKENS, dtype=torch.long)
