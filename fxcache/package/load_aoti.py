"""Load an AOTInductor package."""

from __future__ import annotations

import warnings
from pathlib import Path

from ..errors import PackageError, TrajectoryWarning
from ..runtime.cached_transformer import NO_TIMESTEP
from ..torch_private import aoti_read
from .hardware import misfit
from .manifest import read_manifest
from .packaged_transformer import PackagedTransformer
from .reload import reloading


def load_aoti(path: str | Path, *, device_index: int = -1, max_contexts: int = 64) -> PackagedTransformer:
    """As `fxcache.load`, for a package of the inductor backend. Raises `PackageError`."""
    manifest = read_manifest(path)
    if device_index >= 0:
        manifest = manifest.on_device(device_index)
    found = misfit(manifest.hardware, manifest.devices)
    if found is not None:
        raise PackageError(path, *found)
    try:
        run = aoti_read(path, manifest.device_index)  # left to torch, it would be the current one
    except RuntimeError as error:
        reason = next(iter(str(error).strip().splitlines()), "no reason given")
        raise PackageError(
            path, f"its native code does not load here ({reason})", "export it again"
        ) from error
    if manifest.timestep is None:
        warnings.warn(f"a package of {manifest.model} {NO_TIMESTEP}", TrajectoryWarning, stacklevel=3)
    again = reloading(load_aoti, path, device_index=device_index, max_contexts=max_contexts)
    return PackagedTransformer(manifest, run, max_contexts, again)
