"""What the first projection of a block is given: the stream, normed and modulated by the timestep.

Most blocks of diffusion transformers begin so, each in its own words: an adaptive norm that is a module, or a
norm and then a scale and a shift. So it is found in a trace of the block.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.utils.weak import WeakIdKeyDictionary

from ..environment.trace_sandbox import pristine
from ..errors import FxcacheError
from ..torch_private import TorchDispatchMode, make_fx, pytree
from .trace_lock import LOCK
from .uncompiled_functions import uncompiled

PROJECTIONS = (
    torch.ops.aten.linear.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.mm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.baddbmm.default,
    torch.ops.aten.convolution.default,
)


def before_first_projection(
    block: nn.Module, call: Callable[..., Any], operands: Sequence[Any], stream: int
) -> GraphModule | None:
    """The part of a block's forward that comes before its first projection of a stream.

    Args:
        block: holds the parameters; left as it is.
        call: runs the block on its operands.
        operands: fake tensors, and numbers. stream: which of them the stream is.

    Returns:
        A module of the same operands that returns the projection's input, computed by the block's own
        parameters; None where the block cannot be traced, or projects nothing that depends on the stream.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from fxcache.capture.first_projection import before_first_projection
        >>> block = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4))
        >>> found = before_first_projection(block, block, [torch.randn(2, 4)], stream=0)
        >>> x = torch.randn(2, 4)
        >>> torch.equal(found(x), block[0](x))
        True
    """

    def until(*values: Any) -> Any:
        try:
            with _Until(values[stream]):
                call(*values)
        except _Reached as reached:
            return reached.value
        raise _NotReached

    try:
        with LOCK, pristine(block), torch.no_grad(), uncompiled(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the model's own, which its capture has shown
            traced: GraphModule = make_fx(until, tracing_mode="fake", _allow_non_fake_inputs=True)(*operands)
    except (_NotReached, FxcacheError, RuntimeError, TypeError, ValueError, NotImplementedError):
        return None
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


class _Reached(Exception):
    """The projection was come to; `value` is what it is given."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value


class _NotReached(Exception):
    """The block ended before."""


class _Until(TorchDispatchMode):
    """Follows what depends on a tensor, up to the first projection of that."""

    def __init__(self, stream: torch.Tensor) -> None:
        super().__init__()
        self._followed = WeakIdKeyDictionary()
        self._followed[stream] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        followed = [t for t in _tensors((args, kwargs)) if t in self._followed]
        if followed and func in PROJECTIONS:
            raise _Reached(followed[0])
        result = func(*args, **(kwargs or {}))
        if followed:
            for tensor in _tensors(result):
                self._followed[tensor] = True
        return result


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
