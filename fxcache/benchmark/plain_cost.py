"""What the model costs without a cache: FLOPs of its calls, counted from its graph."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..api.explain import explain
from ..errors import FxcacheError

COUNTED_WITH = "F1B0_W0M0MC0_T0O1_R0"  # any setting: a computed step costs the same in all of them


@dataclass
class PlainCost:
    """Counts the calls of plain models and knows the FLOPs of one.

    A model's first call stands for all: a trajectory's calls have the same shapes.
    """

    calls: dict[str, int] = field(default_factory=dict)
    _flops: dict[str, int | None] = field(default_factory=dict)
    _explaining: bool = False

    @contextlib.contextmanager
    def counting(self, models: Mapping[str, nn.Module]) -> Iterator[None]:
        """Count calls made within the block, from zero."""
        self.calls = dict.fromkeys(models, 0)
        handles = [
            model.register_forward_pre_hook(self._hook(name), with_kwargs=True)
            for name, model in models.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Any:
        def count(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._explaining:  # what explains a call runs the hooks before it
                return
            self.calls[name] += 1
            if name not in self._flops:
                self._explaining = True
                try:
                    self._flops[name] = _flops_of_call(model, args, kwargs)
                finally:
                    self._explaining = False

        return count

    def flops(self) -> int | None:
        """FLOPs of the calls counted last, None where a model's cannot be counted."""
        total = 0
        for name, calls in self.calls.items():
            each = self._flops.get(name)
            if calls and each is None:
                return None
            total += calls * (each or 0)
        return total


def _flops_of_call(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    inputs = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    try:
        return explain(model, COUNTED_WITH, inputs).flops_computed
    except FxcacheError:
        return None
