"""Watch a real-tensor trace for tensor values that Python code reads (`item`, `tolist`, `nonzero`).

Such a trace bakes what it read. Of each value read, a copy becomes an output of the trace, so that
`guards` can work it out again on later calls: a value must never be baked silently.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..environment.refused_trace import RefusedTrace
from ..torch_private import (
    OpOverload,
    PythonKeyTracer,
    TorchDispatchMode,
    disable_proxy_modes_tracing,
    get_proxy_mode,
    get_proxy_slot,
    pytree,
)

READ = torch.Tag.data_dependent_output  # a number leaves the graph
SHAPED = torch.Tag.dynamic_output_shape  # values decide the shape of a result
BY_MASK = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


class OwnReads(TorchDispatchMode):
    """Refuses a trace on fake tensors that reads the model's own tensors: those are real, so that the
    read would succeed and its value be baked."""

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._own = {id(t): name for name, t in (*model.named_parameters(), *model.named_buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _deciding(func, args, kwargs or {}):
            self.note(tensor)
        return func(*args, **(kwargs or {}))

    def calling(self, module: nn.Module) -> None:
        """`module`, which the model need not hold, is about to be called: its tensors count, too."""
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            self._own.setdefault(id(tensor), name)

    def note(self, tensor: torch.Tensor) -> None:
        """Refuse a read of a tensor of the model."""
        if id(tensor) in self._own:
            raise RefusedTrace(f"its Python code reads the value of '{self._own[id(tensor)]}'")


class ValueReads(TorchDispatchMode):
    """Collects the tensors whose values decide something while a forward is traced.

    copies: outputs to add to the trace, in the order of the reads. values: what they were.
    """

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.copies: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self._own = {id(t) for t in (*model.parameters(), *model.buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        parts = _decomposed(self, func, args, kwargs)
        if parts is not NotImplemented:
            return parts
        for tensor in _deciding(func, args, kwargs):
            self.note(tensor)
        if READ in getattr(func, "tags", ()):
            with disable_proxy_modes_tracing():
                return func(*args, **kwargs)
        return func(*args, **kwargs)

    def calling(self, module: nn.Module) -> None:
        """`module`, which the model need not hold, is about to be called: its tensors count, too."""
        self._own.update(map(id, (*module.parameters(), *module.buffers())))

    def note(self, tensor: torch.Tensor) -> None:
        """Remember what `tensor` holds now."""
        mode = get_proxy_mode()
        if mode is None or not isinstance(mode.tracer, PythonKeyTracer):
            return
        if get_proxy_slot(tensor, mode.tracer, None) is None and id(tensor) not in self._own:
            return  # made by Python code from nothing that a call could change
        self.copies.append(tensor.clone())  # traced: what it is now, whatever is written to it later
        with disable_proxy_modes_tracing():
            self.values.append(tensor.detach().clone())


def _decomposed(mode: TorchDispatchMode, func: Any, args: Any, kwargs: Any) -> Any:
    """The result of a composite operator, its parts seen by `mode`; `NotImplemented` for others.

    Below autograd (in a leaf, in inference mode) composites arrive whole: `bool(x)` as `is_nonzero`.
    """
    if not isinstance(func, OpOverload):
        return NotImplemented
    with mode:
        return func.decompose(*args, **kwargs)


def _deciding(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The operands of `func` whose values leave the graph or decide a shape."""
    if func in BY_MASK:
        return [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
    if func is torch.ops.aten.masked_select.default:
        return [args[1]]
    tags = getattr(func, "tags", ())
    if READ not in tags and SHAPED not in tags:
        return []
    leaves = pytree.tree_leaves((args, kwargs))
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]


class AnyRead(TorchDispatchMode):
    """Tells whether anything that runs within reads tensor values."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.happened = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        parts = _decomposed(self, func, args, kwargs)
        if parts is not NotImplemented:
            return parts
        self.happened = self.happened or bool(_deciding(func, args, kwargs))
        return func(*args, **kwargs)

    def note(self, tensor: torch.Tensor) -> None:
        """A read below the dispatcher."""
        self.happened = True


class MemoryReads(TorchFunctionMode):
    """Notes what looks at memory directly, below the dispatcher: `tolist`, `numpy`, `tensor_split`, text."""

    def __init__(self, reads: ValueReads | OwnReads | AnyRead) -> None:
        super().__init__()
        self._reads = reads

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.__repr__):
            self._reads.note(args[0])
        elif func in (torch.Tensor.tensor_split, torch.tensor_split):
            for value in (*args[1:], *kwargs.values()):
                if isinstance(value, torch.Tensor):
                    self._reads.note(value)
        return func(*args, **kwargs)
