"""A small classifier that judges whether a picture shows the class that was asked for.

92.3% right on Fashion-MNIST's test set. Most of its errors are among T-shirt, pullover, coat and
shirt, so agreement is also given with these four counted as one class.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

_WEIGHTS = Path(__file__).parent / "classifier.safetensors"
_MERGED_CLASS: Final = (0, 1, 0, 2, 0, 3, 0, 4, 5, 6)  # by class: the four tops are one


class Classifier(nn.Module):
    """Five 3x3 convolutions, then the mean over space: 0.28M parameters at width 32.

    Example:
        >>> import torch
        >>> from fxcache.embedded import Classifier
        >>> classifier = Classifier(width=4).eval()
        >>> images = torch.zeros(2, 1, 28, 28)
        >>> classifier(images).shape, classifier.features(images).shape
        (torch.Size([2, 10]), torch.Size([2, 16]))
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _convolution(1, width),
            nn.MaxPool2d(2),
            _convolution(width, 2 * width),
            _convolution(2 * width, 2 * width),
            nn.MaxPool2d(2),
            _convolution(2 * width, 4 * width),
            _convolution(4 * width, 4 * width),
        )
        self.head = nn.Linear(4 * width, len(_MERGED_CLASS))

    def features(self, images: Tensor) -> Tensor:
        """Images [B,1,28,28] in [-1,1] to features [B, 4 * width]."""
        return self.trunk(images).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Images [B,1,28,28] in [-1,1] to logits [B,10]."""
        return self.head(F.dropout(self.features(images), 0.2, self.training))


@dataclass(frozen=True)
class Agreement:
    """Shares, 0 to 1, of pictures in which the classifier sees the class asked for.

    Example:
        >>> from fxcache.embedded import Agreement
        >>> Agreement(exact=0.9, merged=1.0).merged
        1.0
    """

    exact: float
    merged: float
    """With the four tops counted as one class."""


def load_classifier() -> Classifier:
    """The embedded classifier in float32 and eval mode, on the CPU.

    Example:
        >>> from fxcache.embedded import load_classifier
        >>> sum(p.numel() for p in load_classifier().parameters())
        278890
    """
    classifier = Classifier()
    classifier.load_state_dict(load_file(_WEIGHTS))  # float16 in the file, float32 after the copy
    return classifier.eval()


@torch.no_grad()
def features(classifier: Classifier, images: Tensor) -> Tensor:
    """Images [B,1,28,28] in [-1,1] to features [B,128], for distances between sets of pictures.

    Example:
        >>> import torch
        >>> from fxcache.embedded import features, load_classifier
        >>> features(load_classifier(), torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 128])
    """
    return classifier.features(images)


@torch.no_grad()
def logits(classifier: Classifier, images: Tensor) -> Tensor:
    """Images [B,1,28,28] in [-1,1] to logits [B,10].

    Example:
        >>> import torch
        >>> from fxcache.embedded import load_classifier, logits
        >>> logits(load_classifier(), torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    return classifier(images)


def agreement(classifier: Classifier, images: Tensor, labels: Iterable[int] | Tensor) -> Agreement:
    """How many of the images [B,1,28,28] in [-1,1] the classifier takes for their label, 0..9.

    Example:
        >>> from fxcache.embedded import agreement, load_classifier, load_pipeline, sample
        >>> trousers = sample(load_pipeline(), [1], num_inference_steps=8)
        >>> agreement(load_classifier(), trousers, [1])
        Agreement(exact=1.0, merged=1.0)
    """
    seen = logits(classifier, images).argmax(1).cpu()
    asked = torch.as_tensor(labels if isinstance(labels, Tensor) else list(labels)).cpu()
    merged = torch.tensor(_MERGED_CLASS)
    return Agreement(
        exact=(seen == asked).float().mean().item(),
        merged=(merged[seen] == merged[asked]).float().mean().item(),
    )


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
