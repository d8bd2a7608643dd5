"""Fashion-MNIST as tensors, from the gzipped IDX files of Debian's dataset-fashion-mnist."""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

DEFAULT_DIRECTORY: Final = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package puts the files."""

_PREFIX: Final = {"train": "train", "test": "t10k"}
_IMAGE_HEADER: Final = 16  # bytes: magic number, count, rows, columns
_LABEL_HEADER: Final = 8  # bytes: magic number, count


@dataclass(frozen=True)
class Split:
    """Part of the data set: images uint8 [N,1,28,28] and labels int64 [N]."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def load_split(directory: Path, split: Literal["train", "test"]) -> Split:
    """Read 60,000 training or 10,000 test pictures."""
    prefix = _PREFIX[split]
    images = _read(directory / f"{prefix}-images-idx3-ubyte.gz", _IMAGE_HEADER)
    labels = _read(directory / f"{prefix}-labels-idx1-ubyte.gz", _LABEL_HEADER)
    return Split(images=images.view(-1, 1, 28, 28), labels=labels.long())


def shuffled_batches(
    split: Split, size: int, generator: torch.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (images uint8 [size,1,28,28], labels [size]), reshuffled after every full pass."""
    while True:
        order = torch.randperm(len(split), generator=generator)
        for chosen in order[: len(order) // size * size].view(-1, size):
            yield split.images[chosen], split.labels[chosen]


def to_unit(images: Tensor) -> Tensor:
    """Bytes 0..255 to float32 in [-1,1]."""
    return images.float() / 127.5 - 1


def _read(path: Path, header: int) -> Tensor:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: apt-get install dataset-fashion-mnist, or give --data")
    with gzip.open(path) as file:
        values = np.frombuffer(file.read(), np.uint8, offset=header)
    return torch.from_numpy(values.copy())  # frombuffer gives read-only memory
