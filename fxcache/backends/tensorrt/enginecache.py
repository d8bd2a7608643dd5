"""Where a stage's engine is kept on disk.

torch-tensorrt finds engines by the names of the operators in turn, the inputs' shapes and some settings.
The operators' arguments are not in that key, nor is the version: stages that differ in a constant or in
what they slice, or an engine of an older TensorRT, would be taken for one another. So each graph has a
folder of its own under the caller's.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

DIGITS = 32  # of the hexadecimal digest: enough, and a readable path


def engine_folder(base: str | Path, exported: ExportedProgram) -> Path:
    """The folder under `base` for the engine of `exported`.

    It depends on the graph with all its arguments and constants, the versions and the GPU, and not on the
    weights: engines are kept without them.
    """
    digest = hashlib.sha256()
    for part in (str(exported.graph), *_machine()):
        digest.update(part.encode())
    for name, value in sorted(exported.constants.items()):
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return Path(base) / digest.hexdigest()[:DIGITS]


def _machine() -> Iterator[str]:
    for package in ("torch_tensorrt", "tensorrt"):  # the second is TensorRT or TensorRT-RTX, by version
        yield str(importlib.import_module(package).__version__)
    properties: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
    yield f"{properties.name} {properties.major}.{properties.minor}"
