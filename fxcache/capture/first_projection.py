"""What the first projection of a block is given: the stream, normed and modulated by the timestep.

Most blocks of diffusion transformers begin so, each in its own words: an adaptive norm that is a module, or a
norm and then a scale and a shift. So it is found in a trace of the block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from ..environment.trace_sandbox import pristine
from ..errors import FxcacheError
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
    try:
        with LOCK, pristine(block), torch.no_grad(), uncompiled():
            traced = make_fx(call, tracing_mode="fake", _allow_non_fake_inputs=True)(*operands)
    except (FxcacheError, RuntimeError, TypeError, ValueError, NotImplementedError):
        return None
    found = _projected(traced, stream)
    if found is None:
        return None
    traced.graph.erase_node(traced.graph.output_node())
    traced.graph.output(found)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


def _projected(traced: GraphModule, stream: int) -> Node | None:
    """What the first projection of what depends on the stream is given."""
    depends = {traced.graph.find_nodes(op="placeholder")[stream]}
    for node in traced.graph.nodes:
        if not depends.intersection(node.all_input_nodes):
            continue
        depends.add(node)
        if node.target in PROJECTIONS:
            return next(n for n in node.args if isinstance(n, Node) and n in depends)
    return None
