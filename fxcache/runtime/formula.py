"""How a value of a captured forward is computed, to be compared with a value of another capture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import Node
from torch.fx.graph_module import GraphModule

from ..capture.leaf_adapter import LeafAdapter
from ..environment.opaque_objects import PLAIN
from ..ir.dataflow import ancestors, attribute_of

Formula = tuple[Any, ...]
SMALL = 1 << 16  # bytes of a tensor that is compared by what it holds


class Incomparable(Exception):
    """A value is computed from something that cannot be told from another."""


def formula(graph: GraphModule, value: Node, names: Mapping[Node, Any]) -> Formula:
    """What `value` is computed from, and how; two of equal formulas are of one meaning.

    names: values that are known by a name; what they are computed from does not matter. Inputs count by
    their place, modules by identity, tensors by that or, where the forward's code made them, by what they
    hold. Raises `Incomparable`.
    """
    known = {node: ("input", i) for i, node in enumerate(graph.graph.find_nodes(op="placeholder"))}
    known |= {node: ("named", name) for node, name in names.items()}
    wanted = ancestors([value], stop=known.__contains__)
    order: dict[Node, int] = {}
    steps: list[Formula] = []
    for node in graph.graph.nodes:
        if node in wanted:
            steps.append(known[node] if node in known else _step(graph, node, order))
            order[node] = len(order)
    return tuple(steps)


def _step(graph: GraphModule, node: Node, order: Mapping[Node, int]) -> Formula:
    if node.op == "get_attr":
        return ("attribute", _Constant(attribute_of(graph, node)))
    called = _Called(graph.get_submodule(str(node.target))) if node.op == "call_module" else node.target
    return (node.op, called, _operand(node.args, order), _operand(node.kwargs, order))


def _operand(value: Any, order: Mapping[Node, int]) -> Formula:
    if isinstance(value, Node):
        return ("value", order[value])
    if isinstance(value, (list, tuple)):
        return ("sequence", *(_operand(v, order) for v in value))
    if isinstance(value, dict):
        return ("dict", *((k, _operand(v, order)) for k, v in value.items()))
    if isinstance(value, slice):
        return ("slice", *(_operand(v, order) for v in (value.start, value.stop, value.step)))
    if isinstance(value, (*PLAIN, torch.memory_format)):
        return (type(value), repr(value))  # 0.0 is not -0.0, and 1 is not True
    raise Incomparable(type(value).__name__)


class _Constant:
    """Equal to what refers to the same object, or to a small tensor of the same bits."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self._bits: tuple[Any, ...] = ()
        if type(value) is torch.Tensor and value.layout == torch.strided and value.nbytes <= SMALL:
            held = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            self._bits = (value.dtype, value.device, value.shape, held.numpy().tobytes())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Constant):
            return False
        return other._value is self._value or (self._bits != () and self._bits == other._bits)

    __hash__ = None  # type: ignore[assignment]  # formulas are compared, never looked up


class _Called:
    """Equal to what calls the same module of the model in the same way."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Called):
            return False
        ours, theirs = self._module, other._module
        return ours.calls_like(theirs) if isinstance(ours, LeafAdapter) else ours is theirs

    __hash__ = None  # type: ignore[assignment]
