"""Watch a real-tensor trace for tensor values that Python code reads (`item`, `tolist`, `nonzero`).

Such a trace bakes what it read. Each read is kept with its node, so that `guards` can check the value
on later calls: a value must never be baked silently.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import (
    PythonKeyTracer,
    disable_proxy_modes_tracing,
    get_proxy_mode,
    get_proxy_slot,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READING = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class ValueReads(TorchDispatchMode):
    """Records (node, value) of every tensor whose values decide something while traced."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[Node, torch.Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(tag in getattr(func, "tags", ()) for tag in READING) and not _indexes_by_number(func, args):
            for tensor in _tensors(args):
                self._note(tensor)
            if torch.Tag.data_dependent_output in func.tags:
                with disable_proxy_modes_tracing():
                    return func(*args, **kwargs)
        return func(*args, **kwargs)

    def _note(self, tensor: torch.Tensor) -> None:
        mode = get_proxy_mode()
        if mode is None or not isinstance(mode.tracer, PythonKeyTracer):
            return
        slot = get_proxy_slot(tensor, mode.tracer, None)
        if slot is None:
            return  # a constant of the model, not something computed from the inputs
        with disable_proxy_modes_tracing():
            self.found[slot.proxy.node] = tensor.detach().clone()


class ListsAsReads(TorchFunctionMode):
    """`tolist` and `numpy` look at memory directly: turn them into a read that the trace can see."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.tolist, torch.Tensor.numpy):
            tensor = args[0]
            flat = [element.item() for element in tensor.reshape(-1).unbind(0)]
            if func is torch.Tensor.tolist:
                return _nest(flat, tuple(tensor.shape))
            import numpy as np

            with disable_proxy_modes_tracing():
                return np.array(flat).reshape(tuple(tensor.shape))
        return func(*args, **(kwargs or {}))


def _nest(flat: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    step = len(flat) // shape[0] if shape[0] else 0
    return [_nest(flat[i * step : (i + 1) * step], shape[1:]) for i in range(shape[0])]


def _tensors(args: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]


def _indexes_by_number(func: Any, args: Any) -> bool:
    """`x[i]` has a fixed shape unless an index is a boolean mask."""
    if func is not torch.ops.aten.index.Tensor:
        return False
    return not any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
