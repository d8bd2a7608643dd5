"""The embedded classifier's features, and how often it sees the class asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ... import embedded
from .pictures import LEVELS


class ClassJudge:
    """Judges pictures of the embedded model."""

    def __init__(self) -> None:
        self._classifier = embedded.load_classifier()

    def features(self, levels: Tensor) -> Tensor:
        """Levels [B,1,28,28] to features [B,128]."""
        return embedded.features(self._classifier, levels / (LEVELS / 2) - 1)

    def accuracy(self, levels: Tensor, texts: Sequence[str]) -> tuple[float, float]:
        """Share right of the ten classes, and with the four tops as one."""
        labels = torch.tensor([embedded.CLASS_NAMES.index(text) for text in texts])
        found = embedded.agreement(self._classifier, levels / (LEVELS / 2) - 1, labels)
        return found.exact, found.merged
