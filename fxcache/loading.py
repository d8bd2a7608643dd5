"""`fxcache.load`: check what a package says of itself, then load its native code."""

from __future__ import annotations

import functools
import warnings
import zipfile
import zlib
from pathlib import Path

import torch

from .cached import NO_TIMESTEP
from .errors import PackageError, TrajectoryWarning
from .hardware import misfit
from .manifest import read_manifest
from .packaged import PackagedTransformer
from .spelling import known_options


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
    manifest = read_manifest(path)
    if manifest.backend == "tensorrt":
        from .backends.tensorrt import load_tensorrt

        return load_tensorrt(path, max_contexts=max_contexts)
    if device_index >= 0:
        manifest = manifest.on_gpu(device_index)
    why = misfit(manifest.hardware, manifest.devices)
    if why is not None:
        raise PackageError(path, why, "export it again on such a machine as this")
    try:
        run = torch._inductor.aoti_load_package(str(path), device_index=device_index)
    except RuntimeError as error:
        reason = next(iter(str(error).strip().splitlines()), "no reason given")
        raise PackageError(
            path, f"its native code does not load here ({reason})", "export it again"
        ) from error
    if manifest.timestep is None:
        warnings.warn(f"a package of {manifest.model} {NO_TIMESTEP}", TrajectoryWarning, stacklevel=3)
    return PackagedTransformer(manifest, run, max_contexts, reloading(path, device_index, max_contexts))


def reloading(
    path: str | Path, device_index: int, max_contexts: int
) -> functools.partial[PackagedTransformer]:
    """Loads the package again, also in another process: what a pickle of it holds."""
    file = Path(path).resolve()
    return functools.partial(_load_again, str(file), _contents(file), device_index, max_contexts)


def _load_again(path: str, contents: int, device_index: int, max_contexts: int) -> PackagedTransformer:
    if zipfile.is_zipfile(path) and _contents(Path(path)) != contents:
        raise PackageError(path, "it is not the package that was pickled", "load it with fxcache.load()")
    return load(path, device_index=device_index, max_contexts=max_contexts)


def _contents(file: Path) -> int:
    """A checksum over the checksums of everything inside, which the end of the file lists."""
    with zipfile.ZipFile(file) as archive:
        listed = [(e.filename, e.file_size, e.CRC) for e in archive.infolist()]
    return zlib.crc32(repr(listed).encode())
