"""What a node returns, as fake tensors: its function, run on what its operands return.

So a node that a pass inserts carries `meta["val"]` as those of the capture do. The capture's own sizes
are meant (symbols stay symbols), but its guards are not touched: what a pass must assume beyond them it
says in `Program.assumed`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch.fx import GraphModule, Node
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.fx.node import map_arg

from ..environment.ambient_settings import without_observers
from ..errors import GraphSpecError
from ..torch_private import FakeTensor, FakeTensorMode, pytree
from .dataflow import attribute_of
from .state import StateTensor


class FakeValues:
    """Runs functions on the `meta["val"]` of nodes, with the sizes of the graph that was captured."""

    def __init__(self, captured: GraphModule) -> None:
        self._captured = captured
        self._mode = _mode_of(captured)

    def result(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What `function(*args, **kwargs)` returns, the nodes among the arguments being their values.

        A function that writes in place changes nothing here but a version. Raises what `function` raises.
        """
        given_args, given_kwargs = map_arg((tuple(args), dict(kwargs)), self.value)
        with self._running():
            return function(*given_args, **given_kwargs)

    def value(self, node: Node) -> Any:
        """What `node` returns, as fake tensors of one mode."""
        if "val" in node.meta:
            return pytree.tree_map(self._own, node.meta["val"])
        if node.op != "get_attr":
            raise GraphSpecError("call", f"value '{node.name}' has no metadata")
        return self._own(attribute_of(self._captured, node))

    def state(self, tensor: StateTensor) -> torch.Tensor:
        """A state tensor, of the capture's sizes."""
        with self._running():
            return torch.empty([*map(self._size, tensor.shape)], dtype=tensor.dtype, device=tensor.device)

    def _size(self, size: int | sympy.Expr) -> Any:
        env = self._mode.shape_env
        if isinstance(size, int) or env is None:
            return int(size)
        return env.create_symintnode(size, hint=None)

    def _own(self, value: Any) -> Any:
        """`value` in this mode: those of a trace on real tensors have a mode each."""
        if not isinstance(value, torch.Tensor) or getattr(value, "fake_mode", None) is self._mode:
            return value
        if not isinstance(value, FakeTensor):
            return self._mode.from_tensor(value, static_shapes=True)
        with self._running():
            return torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device=value.device)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        env: ShapeEnv | None = self._mode.shape_env
        with contextlib.ExitStack() as stack:
            stack.enter_context(without_observers())
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
            if env is not None:
                stack.enter_context(env.suppress_guards())
                stack.enter_context(env.ignore_fresh_unbacked_symbols())
            stack.enter_context(self._mode)
            yield


def _mode_of(captured: GraphModule) -> FakeTensorMode:
    """The mode that knows the symbols of the capture's sizes; one of its own where there are none."""
    for node in captured.graph.find_nodes(op="placeholder"):
        value = node.meta.get("val")
        if isinstance(value, FakeTensor) and value.fake_mode.shape_env is not None:
            return value.fake_mode
    return FakeTensorMode(allow_non_fake_inputs=True)


def forget_operators(captured: GraphModule) -> None:
    """Drop what operators returned on fake tensors: the graph keeps their symbols for as long as it lives."""
    env = _mode_of(captured).shape_env
    if env is not None:
        env.fake_tensor_cache.clear()
