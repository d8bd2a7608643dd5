"""A call of a package: from the forward's arguments to its tensors, and back to the forward's result."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..environment.values import exact
from ..errors import ArgumentsError, PackageInputError, PackageUseError
from .manifest import Manifest, TensorEntry


def flat_inputs(manifest: Manifest, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors of a call in the package's order, as they were given.

    Raises `ArgumentsError`, `PackageInputError`.
    """
    names, wanted = manifest.parameters, manifest.arguments["mapping"]
    if len(args) > len(names):
        what = f"it takes {len(names)} arguments and {len(args)} were given"
        raise ArgumentsError(manifest.model, what)
    given = dict(zip(names, args, strict=False))
    twice = given.keys() & kwargs.keys()
    if twice:
        raise ArgumentsError(manifest.model, f"'{min(twice)}' is given twice")
    given.update(kwargs)
    tensors: list[torch.Tensor | None] = [None] * len(manifest.inputs)
    for name, description in wanted.items():
        if name not in given and name not in manifest.defaults:
            raise PackageInputError(name, "is missing")
        value = given.pop(name, manifest.defaults.get(name))
        if name == manifest.timestep and "tensor" in description and type(value) in (int, float):
            value = _time(value, manifest.inputs[description["tensor"]].device)
        _match(name, description, value, tensors)
    for name, value in given.items():
        if name not in names:
            raise ArgumentsError(manifest.model, f"no input {name}")
        if value is not None and not _is(value, manifest.defaults.get(name)):
            raise PackageInputError(name, "was not given when the package was exported")
    return tensors  # type: ignore[return-value]


def open_sizes(manifest: Manifest, tensors: list[torch.Tensor]) -> dict[str, int]:
    """The dynamic sizes of a call, by the names that the manifest uses. Raises `PackageInputError`."""
    sizes: dict[str, int] = {}
    for entry, tensor in zip(manifest.inputs, tensors, strict=True):
        _check(entry, tensor)
        for dim, size in zip(entry.shape, tensor.shape, strict=True):
            expected = sizes.setdefault(dim, size) if isinstance(dim, str) else dim
            if expected != size:
                raise PackageInputError(
                    entry.name, f"has shape {tuple(tensor.shape)}; the package takes {entry.shape}"
                )
    for condition, holds in zip(manifest.conditions, manifest.checks, strict=True):
        with contextlib.suppress(KeyError):  # about a size that depends on data
            if not holds(sizes):
                raise PackageInputError("sizes", f"{sizes} do not fulfil {condition}")
    return sizes


def _time(value: float, device: str) -> torch.Tensor:
    """A number as the exported model takes it for its timestep; made on the device, as a copy would wait."""
    dtype = torch.int64 if type(value) is int else torch.float32
    return torch.full((), value, dtype=dtype, device=device)


def _match(name: str, description: Mapping[str, Any], value: Any, tensors: list[torch.Tensor | None]) -> None:
    """Put the tensors of one argument in their places; refuse another structure or constant."""
    if "ignored" in description:
        return
    if "tensor" in description:
        if not isinstance(value, torch.Tensor):
            raise PackageInputError(name, f"must be a tensor, not {type(value).__name__}")
        if value.layout != torch.strided:
            raise PackageInputError(name, f"has layout {value.layout}; the package takes torch.strided")
        tensors[description["tensor"]] = value
    elif "mapping" in description:
        given = {str(k): v for k, v in value.items()} if isinstance(value, Mapping) else {}
        if not isinstance(value, Mapping) or set(given) != set(description["mapping"]):
            raise PackageInputError(name, f"must be a mapping with the keys {list(description['mapping'])}")
        for key, inner in description["mapping"].items():
            _match(f"{name}[{key!r}]", inner, given[key], tensors)
    elif "fields" in description:
        for field, inner in description["fields"].items():
            if not hasattr(value, field):
                raise PackageInputError(name, f"has no {field!r}; the package was exported with one that has")
            _match(f"{name}.{field}", inner, getattr(value, field), tensors)
    elif "list" in description or "tuple" in description:
        inners = description.get("list", description.get("tuple"))
        if not isinstance(value, (list, tuple)) or len(value) != len(inners):
            raise PackageInputError(name, f"must hold {len(inners)} items")
        for i, inner in enumerate(inners):
            _match(f"{name}[{i}]", inner, value[i], tensors)
    elif not _is(value, description["value"]):
        raise PackageInputError(name, f"is {value!r}; the package was exported with {description['value']!r}")


def _is(value: Any, wanted: Any) -> bool:
    """Whether a plain value is what a package was exported with: also a NaN, not a one-element tensor."""
    if type(wanted) is float:
        return isinstance(value, float) and exact(value) == exact(wanted)
    return (
        isinstance(value, type(wanted))
        and isinstance(value, bool) == isinstance(wanted, bool)
        and value == wanted
    )


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


@contextlib.contextmanager
def without_autocast(manifest: Manifest) -> Iterator[None]:
    """Compiled code has the casts of its export inside, and must not be given others.

    Raises `PackageUseError` where others are in force around the call: the model would give other numbers.
    """
    kinds = [kind for kind in manifest.device_kinds if torch.is_autocast_enabled(kind)]
    found = {kind: str(torch.get_autocast_dtype(kind)).removeprefix("torch.") for kind in kinds}
    if found != manifest.autocast:
        what = f"cannot run {_within(found)}, being exported {_within(manifest.autocast)}"
        instead = f"Call it {_within(manifest.autocast)}, or export it {_within(found)}."
        raise PackageUseError(manifest.model, what, instead)
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _within(autocast: Mapping[str, str]) -> str:
    regions = " and ".join(f"torch.autocast({kind!r}, torch.{dtype})" for kind, dtype in autocast.items())
    return f"within {regions}" if regions else "without torch.autocast"


def plain(value: torch.Tensor) -> torch.Tensor:
    """With its numbers one after the other in memory, where compiled code reads them."""
    return value.resolve_conj().resolve_neg().contiguous()


def rebuild(description: Mapping[str, Any], tensors: Any) -> Any:
    """The forward's result, from its description and the package's tensors."""
    if "tensor" in description:
        return tensors[description["tensor"]]
    if "mapping" in description:
        items = {k: rebuild(v, tensors) for k, v in description["mapping"].items()}
        if "class" not in description:
            return items
        module, _, name = description["class"].partition(":")
        if not module.startswith("diffusers."):  # only the outputs of its models are classes
            return items
        return getattr(importlib.import_module(module), name)(**items)
    if "list" in description:
        return [rebuild(v, tensors) for v in description["list"]]
    if "tuple" in description:
        return tuple(rebuild(v, tensors) for v in description["tuple"])
    return description["value"]
