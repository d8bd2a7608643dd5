"""A deep picture of a model and of torch's global state, to see what a capture leaves behind."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

Snapshot = dict[str, Any]
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
BY_IDENTITY = (type, FunctionType, BuiltinFunctionType, ModuleType, torch._C._functions.AccumulateGrad)


@dataclass(frozen=True, eq=False)
class Same:
    """Equal where it holds the same object. Holding it, for another could get its address later."""

    held: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.held is other.held

    def __hash__(self) -> int:
        return id(self.held)

    def __repr__(self) -> str:
        return f"{type(self.held).__name__} at {id(self.held):#x}"


def snapshot(model: nn.Module) -> Snapshot:
    """Everything that `model` holds, is made of and runs in, by the way to it."""
    found: Snapshot = {}
    known: dict[int, str] = {}
    for name, value in _walk(vars(model), "model", known):
        found[name] = value
    for kind in sorted({c for m in model.modules() for c in type(m).__mro__}, key=repr):
        if not kind.__module__.startswith(("torch.", "builtins")):
            for name, value in vars(kind).items():
                found[f"class {kind.__qualname__}.{name}"] = Same(value)
    found.update({f"global {name}": value for name, value in _global_state().items()})
    return found


def changed(before: Snapshot, after: Snapshot) -> dict[str, tuple[Any, Any]]:
    """What is not as it was."""
    missing = object()
    names = [n for n in {**before, **after} if before.get(n, missing) != after.get(n, missing)]
    return {n: (before.get(n, "nothing"), after.get(n, "nothing")) for n in names}


def remembered(model: nn.Module) -> dict[str, int]:
    """How much the `lru_cache`s hold of the files that the model's classes come from."""
    return {name: function.cache_info().currsize for name, function in _caching(model).items()}


def asked(model: nn.Module) -> dict[str, int]:
    """How often these were called."""
    infos = {name: function.cache_info() for name, function in _caching(model).items()}
    return {name: info.hits + info.misses for name, info in infos.items()}


def _caching(model: nn.Module) -> dict[str, Any]:
    homes = {c.__module__ for m in model.modules() for c in type(m).__mro__}
    functions: dict[str, Any] = {}
    for home in homes:
        if home in sys.modules and not home.startswith("torch."):
            functions.update({f"{home}.{n}": f for n, f in vars(sys.modules[home]).items()})
    for kind in {c for m in model.modules() for c in type(m).__mro__}:
        functions.update({f"{kind.__qualname__}.{n}": f for n, f in vars(kind).items()})
    return {n: f for n, f in functions.items() if hasattr(f, "cache_info")}


def fakes(model: nn.Module) -> list[str]:
    """Where a tensor without memory was left behind."""
    seen: list[str] = []
    for name, value in _walk(vars(model), "model", {}):
        if name.endswith("#kind") and value is FakeTensor:
            seen.append(name)
    return seen


def _walk(value: Any, where: str, known: dict[int, str]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (*PLAIN, Same)):
        yield where, value
    elif isinstance(value, Tensor):
        yield from _tensor(value, where)
    elif id(value) in known:
        yield where, f"as {known[id(value)]}"
    else:
        known[id(value)] = where
        yield where, Same(value)
        for name, held in _held(value):
            yield from _walk(held, f"{where}{name}", known)


def _held(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [("#keys", repr([k if isinstance(k, PLAIN) else type(k) for k in value]))] + [
            (f"[{key!r}]" if isinstance(key, PLAIN) else f"[{type(key)}]", item)
            for key, item in value.items()
        ]
    if isinstance(value, (list, tuple)):
        return [("#length", len(value)), *((f"[{i}]", item) for i, item in enumerate(value))]
    if isinstance(value, (set, frozenset)):
        return [("#items", repr(sorted(map(repr, value))))]
    if isinstance(value, FunctionType):
        cells = value.__closure__ or ()
        return [(f".cell{i}", Same(cell)) for i, cell in enumerate(cells)]
    if isinstance(value, BY_IDENTITY):
        return []
    if isinstance(value, MethodType):
        return [(".__self__", Same(value.__self__)), (".__func__", Same(value.__func__))]
    slots = [n for kind in type(value).__mro__ for n in getattr(kind, "__slots__", ()) if hasattr(value, n)]
    if type(value).__module__.startswith("torch.") and not isinstance(value, nn.Module):
        return []
    return [
        *((f".{n}", item) for n, item in getattr(value, "__dict__", {}).items()),
        *((f".{n}", getattr(value, n)) for n in slots if not n.startswith("__")),
    ]


def _tensor(tensor: Tensor, where: str) -> Iterator[tuple[str, Any]]:
    yield f"{where}#object", Same(tensor)
    yield f"{where}#kind", type(tensor)
    yield (
        f"{where}#form",
        (tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, tensor.requires_grad),
    )
    if isinstance(tensor, FakeTensor):
        return
    if tensor.layout is torch.strided and tensor.device.type == "cpu":
        yield f"{where}#memory", tensor.data_ptr()
        with torch.inference_mode():
            whole = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            yield f"{where}#values", hash(bytes(whole.numpy()))
    if not tensor.is_inference():
        yield f"{where}#version", tensor._version


def _global_state() -> Snapshot:
    return {
        "default dtype": torch.get_default_dtype(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "autocast cache": torch.is_autocast_cache_enabled(),
        "compiling": (torch.compiler.is_compiling(), torch.compiler.is_exporting()),
        "random numbers": hash(bytes(torch.get_rng_state().numpy())),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "attention": tuple(
            getattr(torch.backends.cuda, f"{name}_sdp_enabled")()
            for name in ("flash", "math", "mem_efficient")
        ),
        "modes": (torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()),
        "module call": nn.Module.__call__,
        "global hooks": len(nn.modules.module._global_forward_hooks),
    }
