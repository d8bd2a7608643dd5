"""`fxcache.load`: check what a package says of itself, then load its native code."""

from __future__ import annotations

from pathlib import Path

from ..backends.tensorrt import load_tensorrt
from ..package.load_aoti import load_aoti
from ..package.manifest import read_manifest
from ..package.packaged_transformer import PackagedTransformer
from ..spelling import known_options


@known_options("fxcache.load()")
def load(path: str | Path, *, device_index: int = -1, max_contexts: int = 64) -> PackagedTransformer:
    """Load a package that `fxcache.export` wrote, for whichever backend.

    A package holds native code, and to load one is to run it: load only files that you trust. The
    readable part is checked first.

    Args:
        path: the file.
        device_index: which GPU (of CUDA, XPU ...) a package for one goes to, by default the one that it was
            exported on; engines go to the current one.
        max_contexts: how many contexts may hold state at once.

    Returns:
        A module that is called as the exported model was, its contexts empty.

    Raises:
        PackageError: the file is no package, or none for this machine or version. For engines also
        TensorRTMissingError, TensorRTDeviceError.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> cached = fxcache.transform(model, "F1B0_W4M0MC3_T1O1_R0.12")
        >>> path = fxcache.export(cached, "encoder.pt2", {"src": torch.randn(3, 1, 8)})
        >>> package = fxcache.load(path)
        >>> [(entry.name, entry.shape) for entry in package.manifest.inputs]
        [('src', ('s...', 1, 8))]
        >>> fxcache.load("flux.pt2")
        Traceback (most recent call last):
        fxcache.errors.PackageError: cannot load 'flux.pt2': ...
    """
    if read_manifest(path).backend == "tensorrt":
        return load_tensorrt(path, max_contexts=max_contexts)
    return load_aoti(path, device_index=device_index, max_contexts=max_contexts)
