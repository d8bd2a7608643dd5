"""The verbs of this backend; `fxcache.compile` and `fxcache.export` call them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from ...errors import BackendError
from ...package.packaged_transformer import PackagedTransformer
from ...package.reload import reloading
from ...runtime.cached_transformer import CachedTransformer
from ...runtime.specialization import Specialization
from .available import require_gpu, require_known, require_torch_tensorrt
from .compiling import Lowered, refit_set
from .lowering import Coverage
from .options import Precision, TensorRTOptions
from .package import read_package, write_package
from .runner import HostRunner
from .shape_ranges import Dynamic


def compile_tensorrt(
    cached: CachedTransformer,
    *,
    precision: Precision | None = None,
    workspace: int = 0,
    dynamic: Dynamic = False,
    require_full: bool = False,
    refit: bool = False,
    cache_dir: str | Path | None = None,
    **extra: Any,
) -> CachedTransformer:
    """The same cached model, its stages run by TensorRT engines.

    Engines are built on the first call of each kind, which takes minutes for a large model, and again
    for sizes outside their range. The PyTorch model keeps its own weights beside those in the engines.

    Args:
        precision, workspace, dynamic, require_full, refit, cache_dir: as in `TensorRTOptions`.
        extra: further arguments of `torch_tensorrt.dynamo.compile`.

    Raises:
        TensorRTMissingError: torch-tensorrt is not installed. TensorRTDeviceError: no GPU, or the model is
        elsewhere. PrecisionError: no such precision. BackendError: no such argument. The first call also
        raises `EngineRangeError`, and `LeftoverOperatorsError` with `require_full`.
    """
    folder = Path(cache_dir) if cache_dir is not None else None
    options = TensorRTOptions(precision, workspace, dynamic, require_full, refit, folder, extra)
    require_known(require_torch_tensorrt(), extra)
    require_gpu(cached.original.parameters())
    return cached.lowered(Lowered(options))


def engine_report(compiled: CachedTransformer) -> tuple[tuple[Coverage, ...], ...]:
    """For each set of engines built so far, where the operators of each stage run.

    Raises `BackendError` for a model that another backend runs.
    """
    return tuple(s.coverage for v in _lowered(compiled).specializations() for s in _runner(v).sets)


def refit(compiled: CachedTransformer) -> None:
    """Give the engines the model's present weights, after they changed (a fused LoRA, new weights).

    Weights that change in place cannot be noticed from outside: call this after changing them. Where
    modules are replaced instead, new engines are built without being asked. Raises `FixedWeightsError`
    where the model was compiled without `refit=True`.
    """
    lower = _lowered(compiled)._options["lower"]
    for specialization in compiled.specializations():
        runner = _runner(specialization)
        runner.sets[:] = [refit_set(specialization.program, s, lower.options) for s in runner.sets]


def export_tensorrt(
    cached: CachedTransformer,
    path: str | Path,
    example_inputs: Mapping[str, Any],
    *,
    dynamic: Dynamic = True,
    **options: Any,
) -> Path:
    """Write a package of engines that `fxcache.load` runs, with the cache's bookkeeping beside them.

    Args:
        path: file to write, ending in `.zip`.
        example_inputs: keyword arguments of a call such as will be made.
        dynamic, options: as `compile_tensorrt` takes them.

    Raises as `compile_tensorrt`; `LeftoverOperatorsError` where a stage is not one engine, before any is
    built; `ExportError` where the forward does what no package can (see `fxcache.export`).
    """
    names = {f.name for f in fields(TensorRTOptions)} - {"dynamic", "extra"}
    chosen = {n: v for n, v in options.items() if n in names}
    extra = {n: v for n, v in options.items() if n not in names}
    return write_package(
        cached, Path(path), example_inputs, TensorRTOptions(dynamic=dynamic, extra=extra, **chosen)
    )


def load_tensorrt(path: str | Path, *, max_contexts: int = 64) -> PackagedTransformer:
    """Load what `export_tensorrt` wrote; called like the model. `fxcache.load` does this, too.

    Raises `PackageError`, `TensorRTMissingError` and `TensorRTDeviceError`.
    """
    again = reloading(load_tensorrt, path, max_contexts=max_contexts)
    return read_package(Path(path), max_contexts, again)


def _lowered(compiled: CachedTransformer) -> CachedTransformer:
    if not isinstance(compiled._options["lower"], Lowered):
        raise BackendError(
            "what is given to refit() or engine_report()",
            'be what fxcache.compile(backend="tensorrt") returns',
        )
    return compiled


def _runner(specialization: Specialization) -> HostRunner:
    """What the specialization runs, beneath the effects of the forward that are set around it."""
    runner = inspect.unwrap(specialization.run)
    assert isinstance(runner, HostRunner)
    return runner
