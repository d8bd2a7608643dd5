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
        device_index: which GPU a package for CUDA goes to, by default the one that it was exported on;
            engines go to the current one.
        max_contexts: how many contexts may hold state at once.

    Raises `PackageError`; for engines also `TensorRTMissingError` and `TensorRTDeviceError`.
    """
    if read_manifest(path).backend == "tensorrt":
        return load_tensorrt(path, max_contexts=max_contexts)
    return load_aoti(path, device_index=device_index, max_contexts=max_contexts)
