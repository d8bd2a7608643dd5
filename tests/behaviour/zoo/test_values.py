"""Every node of the cached graph says what it returns, and returns that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from fxcache import CacheConfig
from fxcache.ops.cond import conditional
from tests.behaviour.zoo import find
from tests.behaviour.zoo.running import Captured, captured
from tests.sweep import sweep

CASES = (
    "FluxTransformer2DModel:dev+controlnet",
    "SD3Transformer2DModel",
    "HunyuanDiT2DModel",
    "ZImageTransformer2DModel",
    "Lumina2Transformer2DModel",  # traced on real tensors
)
CONFIGS = ("F1B1_W2M0MC0_T1O1_R0.1", "F2B0_W2M0MC0_T0O1_R0.1")


class Described(Interpreter):
    """Runs a graph, its stages and both branches of each conditional, and compares what each node returns."""

    def __init__(self, module: GraphModule) -> None:
        super().__init__(module)
        self.count = 0

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op not in ("output", "get_attr"):
            assert described(n.meta["val"]) == described(value), n.name
            self.count += 1
        return value

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.fetch_attr(target)
        if not isinstance(module, GraphModule):
            return super().call_module(target, args, kwargs)
        return self._inside(module, args)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is not conditional:
            return super().call_function(target, args, kwargs)
        _, skip, compute, operands, *_ = args
        missed = self._inside(compute, operands)
        hit = self._inside(skip, operands)
        assert described(tuple(hit)) == described(tuple(missed))
        return missed

    def _inside(self, stage: GraphModule, args: Any) -> Any:
        inner = Described(stage)
        result = inner.run(*args)
        self.count += inner.count
        return result


def described(value: Any) -> Any:
    """Shape and dtype of the tensors within, and what numbers come to at the sizes that were traced."""
    if isinstance(value, Tensor):
        return [described(s) for s in value.shape], value.dtype, value.device
    if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return value.node.hint
    if isinstance(value, (list, tuple)):
        return [described(v) for v in value]
    return value


def guards(found: Captured) -> Any:
    """What the capture assumes of its sizes."""
    first = found.capture.graph.graph.find_nodes(op="placeholder")[0].meta["val"]
    env = first.fake_mode.shape_env
    return None if env is None else (len(env.guards), dict(env.replacements), dict(env.var_to_range))


@pytest.mark.parametrize("name", sweep(CASES, CASES[:1]))
def test_every_node_returns_what_it_says(name: str) -> None:
    found = captured(find(name))
    before = guards(found)
    for notation in CONFIGS:
        program = found.program(CacheConfig.from_string(notation))
        assert program.graph is not None
        inputs = found.call(found.inputs).tensors
        symbols = found.capture.shapes.bind([t.shape for t in inputs])
        state = [s.allocate({k: int(v) for k, v in (symbols or {}).items()}) for s in program.state]
        whole = Described(program.graph)
        with torch.no_grad():
            whole.run(*inputs, *state)
        stages = sum(
            len([n for n in s.graph.graph.nodes if n.op not in ("output", "get_attr")])
            for s in program.stages.values()
        )
        assert whole.count > stages
    assert guards(found) == before
