"""Parameters and buffers that a forward exchanges before it calls the leaf that owns them.

A graph of the calls would run each leaf with what it owns between forwards: block swapping, casting a
block and casting it back, would be skipped silently.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ..environment.leaf_hooks import HOOKS
from ..environment.refused_trace import RefusedTrace
from .operator_schemas import storage_of

BY_HOOKS = "hooks on the blocks may, which run only where a block does"


class WeightWatch:
    """Knows what each leaf's tensors were when the forward began, or after a leaf ran."""

    def __init__(self, leaves: Iterable[nn.Module]) -> None:
        self._leaves = list(leaves)
        self._known: dict[nn.Module, list[tuple[Any, ...]]] = {}
        self._refresh()

    def called(self, name: str, leaf: nn.Module) -> None:
        """Compare `leaf`, about to run. Raises `RefusedTrace`."""
        known = self._known.get(leaf)
        now = _described(leaf)
        if known is None or known == now:
            return
        changed = [n for n, t in zip(_names(leaf), now, strict=False) if t not in known]
        what = f"'{name}.{changed[0]}'" if changed else f"the parameters of '{name}'"
        raise RefusedTrace(
            f"its forward exchanges, moves or casts {what} before it calls '{name}'; {BY_HOOKS}"
        )

    def ran(self, leaf: nn.Module) -> None:
        """What `leaf` does to its own tensors is its own affair; its hooks may fetch other leaves'."""
        if any(getattr(m, hooks) for m in leaf.modules() for hooks in HOOKS) or _wrapped(leaf):
            self._refresh()
        elif leaf in self._known:
            self._known[leaf] = _described(leaf)

    def _refresh(self) -> None:
        self._known = {leaf: _described(leaf) for leaf in self._leaves}


def _wrapped(leaf: nn.Module) -> bool:
    return any("forward" in vars(m) for m in leaf.modules())  # as offloading libraries do


def _tensors(leaf: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    for module in leaf.modules():
        for table in (module._parameters, module._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    yield name, tensor


def _names(leaf: nn.Module) -> list[str]:
    return [name for name, _ in _tensors(leaf)]


def _described(leaf: nn.Module) -> list[tuple[Any, ...]]:
    return [
        (id(t), storage_of(t), t.dtype, t.device, t.shape, 0 if t.is_inference() else t._version)
        for _, t in _tensors(leaf)
    ]
