"""The Python state of a model as plain values, to compare that of two equal models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TORCHS_OWN = frozenset(nn.Module().__dict__) - {
    "training", "_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks",
}  # fmt: skip
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


def python_state(value: Any, known: dict[int, str] | None = None, where: str = "model") -> dict[str, Any]:
    """Every plain value and tensor that `value` reaches, by the way to it."""
    known = {} if known is None else known
    if isinstance(value, PLAIN):
        return {where: value}
    if id(value) in known:
        return {where: f"as {known[id(value)]}"}
    known[id(value)] = where
    if isinstance(value, Tensor):
        return {where: _tensor(value)}
    if isinstance(value, torch.Generator):
        return {where: hash(bytes(value.get_state().numpy()))}
    if isinstance(value, (set, frozenset)):
        return {where: sorted(map(repr, value))}
    found: dict[str, Any] = {where: type(value).__name__}
    for name, held in _held(value):
        found.update(python_state(held, known, f"{where}{name}"))
    return found


def _tensor(tensor: Tensor) -> tuple[Any, ...]:
    raw = tensor.detach().contiguous()
    return type(tensor).__name__, tuple(tensor.shape), tensor.dtype, raw.double().nan_to_num().tolist()


def _held(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"[{key!r}]", item) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [(f"[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, nn.Module):
        own = {name: item for name, item in vars(value).items() if name not in TORCHS_OWN}
        hooks = {name: len(own.pop(name)) for name in ("_forward_hooks", "_forward_pre_hooks")}
        return [(f".{name}", item) for name, item in {**own, **hooks}.items()]
    slots = [n for kind in type(value).__mro__ for n in getattr(kind, "__slots__", ())]
    attributes = {
        **getattr(value, "__dict__", {}),
        **{n: getattr(value, n) for n in slots if hasattr(value, n)},
    }
    if callable(value):
        return []
    return [(f".{name}", item) for name, item in attributes.items()]
