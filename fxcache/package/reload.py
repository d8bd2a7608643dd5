"""What a pickle of a loaded package holds: how to load it again, also in another process."""

from __future__ import annotations

import functools
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import PackageError
from .packaged_transformer import PackagedTransformer

Load = Callable[..., PackagedTransformer]


def reloading(load: Load, path: str | Path, **options: Any) -> functools.partial[PackagedTransformer]:
    """Loads the package again, if the file is still the one that it is now.

    load: an importable function that takes the path and `options`.
    """
    file = Path(path).resolve()
    return functools.partial(_load_again, load, str(file), _contents(file), options)


def _load_again(load: Load, path: str, contents: int, options: dict[str, Any]) -> PackagedTransformer:
    if zipfile.is_zipfile(path) and _contents(Path(path)) != contents:
        raise PackageError(path, "it is not the package that was pickled", "load it with fxcache.load()")
    return load(path, **options)


def _contents(file: Path) -> int:
    """A checksum over the checksums of everything inside, which the end of the file lists."""
    with zipfile.ZipFile(file) as archive:
        listed = [(e.filename, e.file_size, e.CRC) for e in archive.infolist()]
    return zlib.crc32(repr(listed).encode())
