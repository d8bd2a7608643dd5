"""Fréchet distance between two sets of features, by torchmetrics with features of our own."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GivenFeatures(nn.Module):
    """Stands where torchmetrics has InceptionV3: features come in and go out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_distance(features: Tensor, references: Tensor) -> float:
    """Distance of two sets of features, [B,D] and [B',D] with at least two rows each.

    Computed in float64: in float32 the distance of like sets drowns in the rounding of the
    eigenvalues (it came out as -0.04 where it was 0.04).
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    distance = FrechetInceptionDistance(feature=GivenFeatures(features.shape[1]))
    distance.set_dtype(torch.float64)
    distance.update(references.double(), real=True)
    distance.update(features.double(), real=False)
    return max(float(distance.compute()), 0.0)  # rounding can leave a tiny negative number
