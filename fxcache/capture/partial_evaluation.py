"""Work out values of a graph while it is being traced, from real inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from ..environment.refused_trace import RefusedTrace
from ..torch_private import OpOverload, without_dispatch_modes, without_torch_function
from .leaf_call import leaf_call
from .operand_writes import copied
from .operator_schemas import draws
from .sanitize_trace import is_write


class PartialEvaluation:
    """The values of a trace's nodes so far, but of those that need a leaf: these are not run.

    tracer: of the trace. inputs: the flat inputs; they are copied, as the trace may write to them.
    """

    def __init__(self, tracer: Any, inputs: Sequence[torch.Tensor]) -> None:
        self._tracer = tracer
        self._inputs = list(inputs)
        self._values: dict[Node, Any] = {}
        self._missing: dict[Node, str] = {}
        self._last: Node | None = None
        self._lost: str | None = None

    def value(self, node: Node) -> Any:
        """What `node` holds now; a copy of a tensor.

        Raises `RefusedTrace` where that cannot be told without running a leaf.
        """
        with without_dispatch_modes(), without_torch_function(), torch.no_grad():
            self._catch_up()
            if node in self._values and self._lost is None:
                found = self._values[node]
                return found.detach().clone() if isinstance(found, torch.Tensor) else found
        raise RefusedTrace(f"its Python code reads {self._lost or self._missing.get(node)}")

    def _catch_up(self) -> None:
        nodes = list(self._tracer.graph.nodes)
        start = nodes.index(self._last) + 1 if self._last is not None else 0
        for node in nodes[start:]:
            self._run(node)
            self._last = node

    def _run(self, node: Node) -> None:
        missing = [self._missing[n] for n in node.all_input_nodes if n in self._missing]
        args, kwargs = node.args, node.kwargs
        if node.op == "placeholder":
            self._values[node] = _private(self._inputs[len(self._values) + len(self._missing)])
        elif node.op == "get_attr":
            self._values[node] = _attribute(self._tracer.root, str(node.target))
        elif node.op != "call_function":
            self._missing[node] = f"'{node}'"
        elif node.target is leaf_call:
            self._missing[node] = "values that a module computes"
        elif isinstance(node.target, OpOverload) and draws(node.target, args, kwargs):
            self._missing[node] = "random numbers"
        elif missing:
            self._missing[node] = missing[0]
            if is_write(node):
                self._lost = missing[0]
        else:
            args, kwargs = map_arg((args, kwargs), lambda n: self._values[n])
            self._values[node] = node.target(*args, **kwargs)  # type: ignore[operator]


def _private(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach() if 0 in tensor.stride() else copied(tensor.detach())


def _attribute(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part)
    return module
