"""`fxcache.load`: a package stands in a pipeline like the cached model that it was made of."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .config import CacheConfig
from .contexts import DEFAULT
from .errors import PackageError, PackageInputError
from .flops import StepFlops
from .hardware import misfit
from .manifest import Manifest, TensorEntry, evaluate, read_manifest
from .stats import ContextStats, Stats, context_stats

Key = tuple[int, str]


def load(path: str | Path, *, device_index: int = -1) -> PackagedTransformer:
    """Load a package that `fxcache.export` wrote, for whichever backend.

    A package holds native code, and to load one is to run it: load only files that you trust. The
    readable part is checked first.

    Args:
        path: the file.
        device_index: which GPU a package for CUDA goes to; engines go to the current one.

    Raises `PackageError`; for engines also `TensorRTMissingError` and `TensorRTDeviceError`.
    """
    manifest = read_manifest(path)
    if manifest.backend == "tensorrt":
        from .backends.tensorrt import load_tensorrt

        return load_tensorrt(path)
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
    return PackagedTransformer(manifest, run)


class PackagedTransformer(nn.Module):
    """A loaded package. Called like the model; each context has a state of its own.

    `run(*inputs, *state)` is the package itself, for those who keep state themselves: `new_state` gives
    one, `manifest` says in what order everything goes.
    """

    def __init__(self, manifest: Manifest, run: Any) -> None:
        super().__init__()
        self.manifest = manifest
        self.run = run
        self.cache_config = CacheConfig.from_dict(manifest.config)
        self._states: dict[Key, tuple[tuple[Any, ...], dict[str, torch.Tensor]]] = {}
        self._name: ContextVar[str] = ContextVar("fxcache_package_context", default=DEFAULT)

    @property
    def config(self) -> Any:
        """The exported model's config."""
        from diffusers.configuration_utils import FrozenDict

        return FrozenDict(self.manifest.model_config)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the first floating input."""
        found = (getattr(torch, e.dtype) for e in self.manifest.inputs)
        return next((d for d in found if d.is_floating_point), torch.float32)

    @property
    def device(self) -> torch.device:
        return torch.device(self.manifest.inputs[0].device)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the exported model's forward. Raises `PackageInputError`."""
        tensors = self._flat_inputs(args, kwargs)
        sizes = self._sizes(tensors)
        key = (threading.get_ident(), self._name.get())
        shapes = tuple(t.shape for t in tensors)
        known = self._states.get(key)
        if known is None or known[0] != shapes:
            known = (shapes, self.new_state(sizes))
            self._states[key] = known
        try:
            with torch.no_grad():
                results = self.run(*tensors, *known[1].values())
        except BaseException:
            self._states.pop(key, None)
            raise
        return _rebuild(self.manifest.outputs, results)

    def new_state(self, sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """Fresh state tensors, by name and in order, for these sizes (`input_sizes` gives them)."""
        return {e.name: _allocate(e, sizes) for e in self.manifest.state}

    def input_sizes(self, *args: Any, **kwargs: Any) -> dict[str, int]:
        """The open sizes of a call, by the names that the manifest uses."""
        return self._sizes(self._flat_inputs(args, kwargs))

    # ------------------------------------------------------------------ inputs

    def _flat_inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        names, wanted = self.manifest.parameters, self.manifest.arguments["mapping"]
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        tensors: list[torch.Tensor | None] = [None] * len(self.manifest.inputs)
        for name, description in wanted.items():
            if name not in given and name not in self.manifest.defaults:
                raise PackageInputError(name, "is missing")
            value = given.pop(name, self.manifest.defaults.get(name))
            _match(name, description, value, tensors, name == self.manifest.timestep)
        for name, value in given.items():
            if name not in names:
                raise TypeError(f"{self.manifest.model}.forward has no argument '{name}'")
            if value is not None and value != self.manifest.defaults.get(name):
                raise PackageInputError(name, "was not given when the package was exported")
        return tensors  # type: ignore[return-value]

    def _sizes(self, tensors: list[torch.Tensor]) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for entry, tensor in zip(self.manifest.inputs, tensors, strict=True):
            _check(entry, tensor)
            for dim, size in zip(entry.shape, tensor.shape, strict=True):
                expected = sizes.setdefault(dim, size) if isinstance(dim, str) else dim
                if expected != size:
                    raise PackageInputError(
                        entry.name, f"has shape {tuple(tensor.shape)}; the package takes {entry.shape}"
                    )
        for condition in self.manifest.conditions:
            with contextlib.suppress(KeyError):  # about a size that depends on data
                if not evaluate(condition, sizes):
                    raise PackageInputError("sizes", f"{sizes} do not fulfil {condition}")
        return sizes

    # ------------------------------------------------------------------ contexts and report

    @contextlib.contextmanager
    def cache_context(self, name: str, **information: Any) -> Iterator[None]:
        """Within the block, calls use the state `name`."""
        token = self._name.set(name)
        try:
            yield
        finally:
            self._name.reset(token)

    def reset(self) -> None:
        """Forget all states."""
        self._states.clear()

    def _reset_stateful_cache(self, recurse: bool = True) -> None:
        # diffusers calls this when a pipeline is done; the record stays for `stats()`.
        for key, (_, state) in list(self._states.items()):
            kept = {n: t for n, t in state.items() if n.startswith(("clock_", "log_"))}
            self._states[key] = ((), kept)

    def stats(self) -> Stats:
        """What was cached in the last trajectory of each context."""
        contexts: dict[str, ContextStats] = {}
        for (_, name), (_, state) in self._states.items():
            label = name if name not in contexts else f"{name}#{len(contexts)}"
            contexts[label] = context_stats(state, self.manifest.segments, self._flops())
        return Stats(contexts)

    def _flops(self) -> StepFlops | None:
        found = self.manifest.flops
        return (
            None
            if found is None
            else StepFlops(found["trunk"], tuple(found["compute"]), tuple(found["skip"]))
        )


def _allocate(entry: TensorEntry, sizes: Mapping[str, int]) -> torch.Tensor:
    shape = [evaluate(s, sizes) for s in entry.shape]
    dtype, device = getattr(torch, entry.dtype), torch.device(entry.device)
    if entry.initial is not None:
        return torch.tensor(entry.initial, dtype=dtype, device=device).reshape(shape)
    return torch.zeros(shape, dtype=dtype, device=device)


def _match(
    name: str, description: Mapping[str, Any], value: Any, tensors: list[torch.Tensor | None], is_time: bool
) -> None:
    """Put the tensors of one argument in their places; refuse another structure or constant."""
    if "tensor" in description:
        if is_time and isinstance(value, (int, float)):
            value = torch.tensor(value)
        if not isinstance(value, torch.Tensor):
            raise PackageInputError(name, f"must be a tensor, not {type(value).__name__}")
        tensors[description["tensor"]] = value
    elif "mapping" in description:
        if not isinstance(value, Mapping) or set(value) != set(description["mapping"]):
            raise PackageInputError(name, f"must be a mapping with the keys {list(description['mapping'])}")
        for key, inner in description["mapping"].items():
            _match(f"{name}[{key!r}]", inner, value[key], tensors, False)
    elif "list" in description or "tuple" in description:
        inners = description.get("list", description.get("tuple"))
        if not isinstance(value, (list, tuple)) or len(value) != len(inners):
            raise PackageInputError(name, f"must hold {len(inners)} items")
        for i, inner in enumerate(inners):
            _match(f"{name}[{i}]", inner, value[i], tensors, False)
    elif value != description["value"] or isinstance(value, bool) != isinstance(description["value"], bool):
        raise PackageInputError(name, f"is {value!r}; the package was exported with {description['value']!r}")


def _check(entry: TensorEntry, tensor: torch.Tensor) -> None:
    if str(tensor.dtype) != "torch." + entry.dtype:
        raise PackageInputError(
            entry.name, f"has dtype {tensor.dtype}; the package takes torch.{entry.dtype}"
        )
    if tensor.dim() != len(entry.shape):
        raise PackageInputError(
            entry.name, f"has {tensor.dim()} dimensions; the package takes {len(entry.shape)}"
        )
    if str(tensor.device) != entry.device:
        raise PackageInputError(entry.name, f"is on {tensor.device}; the package runs on {entry.device}")


def _rebuild(description: Mapping[str, Any], tensors: Any) -> Any:
    if "tensor" in description:
        return tensors[description["tensor"]]
    if "mapping" in description:
        items = {k: _rebuild(v, tensors) for k, v in description["mapping"].items()}
        if "class" not in description:
            return items
        module, _, name = description["class"].partition(":")
        if not module.startswith("diffusers."):  # only the outputs of its models are classes
            return items
        return getattr(importlib.import_module(module), name)(**items)
    if "list" in description:
        return [_rebuild(v, tensors) for v in description["list"]]
    if "tuple" in description:
        return tuple(_rebuild(v, tensors) for v in description["tuple"])
    return description["value"]
