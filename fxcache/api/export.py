"""`fxcache.export`: a package that runs without the model's Python code."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..backends.export_elsewhere import export_elsewhere
from ..backends.tensorrt import export_tensorrt
from ..capture.whole_parameters import class_of
from ..environment.structure import map_leaves
from ..errors import BackendError, ExportError
from ..package.aoti import export_aoti
from ..package.arguments import plain
from ..runtime.cached_transformer import CachedTransformer
from ..runtime.subjects import require_cached, shared_with
from ..spelling import require_known
from ..torch_private import inductor_options


def export(
    cached: CachedTransformer,
    path: str | Path,
    example_inputs: Mapping[str, Any],
    *,
    dynamic: bool = True,
    backend: str = "inductor",
    arch: str | None = None,
    **options: Any,
) -> Path:
    """Write a package that runs without the model's Python code: graph, weights, cache and what they need.

    The call is captured, as `CachedTransformer.prepare` does it, unless one like it was. Then `torch.export`
    traces the cached graph, both ways of each decision, and AOTInductor compiles it: minutes for a large
    model. The model is not run for its results, and no state of `cached` is touched.

    Args:
        cached: what `fxcache.transform` returned.
        path: file to write, ending in `.pt2`, or in `.zip` for engines.
        example_inputs: keyword arguments of a call such as will be made; tensors fix dtypes, devices and,
            where the model does not keep them dynamic, sizes. Everything else is fixed.
        dynamic: keep sizes dynamic where the model allows.
        backend: "inductor", or "tensorrt" for engines by stage.
        arch: "sm_80", "sm_89", "sm_90" or "sm_100" compiles for a CUDA GPU of that kind on a machine without
            one: model and example are on the CPU, the package runs on "cuda:0". Needs a CUDA build of torch.
        options: further options of the compiler (inductor's configuration).

    Returns:
        The path. The file holds native code: load only files that you trust.

    Raises:
        ExportError: the graph or its state depends on values of its inputs, or cannot be exported; or there
        are several graphs, as contexts follow others; or several processes share the model's forward.
        BackendError: `cached` is no cached model; or `arch` is none of these, or given where there is a GPU.
        CudaBuildError: `arch` is given and this torch cannot compile for CUDA.
        PackageUseError: it is a loaded package.
        ConfigError: its config has no cache. UnknownOptionError: no such option. And what the first call of
        `cached` raises where the model cannot be transformed.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> cached = fxcache.transform(model, "F1B0_W4M0MC3_T1O1_R0.12")
        >>> fxcache.export(cached, "encoder.pt2", {"src": torch.randn(3, 1, 8)})
        PosixPath('encoder.pt2')
        >>> package = fxcache.load("encoder.pt2")
        >>> with torch.no_grad():
        ...     torch.testing.assert_close(package(src=torch.ones(5, 1, 8)), model(torch.ones(5, 1, 8)))
    """
    require_cached(cached, "export")
    if cached.cache_config.follow:
        why = (
            "a package holds one graph, and contexts that follow others have one of their own. "
            "Let every context decide: cached.configure(follow={})"
        )
        raise ExportError(type(cached.original).__name__, why)
    shared = shared_with(cached)
    if shared is not None:
        why = (
            f"several processes share its forward: {shared}. A package would have the names of this "
            "process's groups in it, and split no inputs among ranks. Export the model before it is "
            "parallelized, or compile this one: fxcache.compile(cached)"
        )
        raise ExportError(class_of(cached.original).__name__, why)
    # Compiled code reads memory as the example's was laid out; a loaded package hands it plain tensors.
    example_inputs = map_leaves(_plain, dict(example_inputs))
    if backend == "tensorrt":
        if arch is not None:
            raise BackendError("arch= of fxcache.export()", 'be left out with backend="tensorrt"')
        return Path(export_tensorrt(cached, path, example_inputs, dynamic=dynamic, **options))
    known = (*(n for n in inspect.signature(export).parameters if n != "options"), *inductor_options())
    require_known("fxcache.export()", options, known)
    if arch is not None:
        return export_elsewhere(cached, Path(path), example_inputs, dynamic, options, arch)
    return export_aoti(cached, Path(path), example_inputs, dynamic, options)


def _plain(place: str, leaf: Any) -> Any:
    return plain(leaf) if isinstance(leaf, torch.Tensor) else leaf
