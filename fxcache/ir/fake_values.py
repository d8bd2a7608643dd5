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
from torch.fx.node import map_arg

from ..environment.ambient_settings import without_observers
from ..errors import GraphSpecError
from ..torch_private import FakeTensor, FakeTensorMode, ShapeEnv, backed_symbols, pytree, size_facts
from .dataflow import attribute_of
from .fake_results import RESULTS, FakeResults, Fresh, call_key, result_of
from .state import StateTensor


class FakeValues:
    """Runs functions on the `meta["val"]` of nodes, with the sizes of the graph that was captured.

    results: what is remembered of functions that ran before, on operands that are described alike.
    """

    def __init__(self, captured: GraphModule, results: FakeResults = RESULTS) -> None:
        self._captured = captured
        self._mode = _mode_of(captured)
        self._results = results
        self._states: dict[Any, torch.Tensor] = {}
        env: ShapeEnv | None = self._mode.shape_env
        self._symbols = backed_symbols(env) if env is not None else frozenset()
        # Nothing that runs here adds to what the environment knows of these.
        self._known = results.known(size_facts(env)) if env is not None else None

    def result(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What `function(*args, **kwargs)` returns, the nodes among the arguments being their values.

        A function that writes in place changes nothing here but a version. Raises what `function` raises.
        """
        given_args, given_kwargs = map_arg((tuple(args), dict(kwargs)), self.value)
        return self._run(function, given_args, given_kwargs)

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        operands = (args, kwargs)
        key = call_key(function, operands, self._known, self._symbols)
        found = self._results.recall(key) if key is not None else None
        with self._running():
            if found is not None:
                return pytree.tree_unflatten([self._made(leaf) for leaf in found.leaves], found.spec)
            returned = function(*args, **kwargs)
        if key is not None and call_key(function, operands, self._known, self._symbols) == key:
            result = result_of(returned, operands, self._mode, self._symbols)
            if result is not None:
                self._results.remember(key, result)
        return returned

    def _made(self, leaf: Any) -> Any:
        if not isinstance(leaf, Fresh):
            return leaf
        sizes, strides = ([*map(self._size, each)] for each in (leaf.sizes, leaf.strides))
        return torch.empty_strided(sizes, strides, dtype=leaf.dtype, device=leaf.device)

    def value(self, node: Node) -> Any:
        """What `node` returns, as fake tensors of one mode."""
        if "val" in node.meta:
            return pytree.tree_map(self._own, node.meta["val"])
        if node.op != "get_attr":
            raise GraphSpecError("call", f"value '{node.name}' has no metadata")
        return self._own(attribute_of(self._captured, node))

    def state(self, tensor: StateTensor) -> torch.Tensor:
        """A state tensor, of the capture's sizes; the same one wherever it is asked for."""
        like = {"dtype": tensor.dtype, "device": tensor.device}
        key = (tensor.name, tensor.shape, *like.values())
        if key not in self._states:
            self._states[key] = self._run(torch.empty, ([*map(self._size, tensor.shape)],), like)
        return self._states[key]

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
