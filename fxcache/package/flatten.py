"""Flatten a program: every stage down to ATen operators, its modules' parameters as attributes.

Needed where branches that update state are compiled for open sizes: functionalising such a branch asks
composite operators (`aten.linear`) for concrete sizes and would fix them without a word. A flat program
holds the modules as they are now; use it only where that is meant (export).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch._export.utils import _compiling_state_context
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from ..capture.capture import fake_input
from ..capture.trace_lock import LOCK
from ..capture.uncompiled_functions import uncompiled
from ..environment.ambient_settings import entered
from ..environment.trace_sandbox import pristine
from ..ir.program import Program
from ..ir.stage import Stage


def flat_graph(program: Program, values: Sequence[torch.Tensor], dynamic: bool) -> GraphModule:
    """The outer graph of `program` over flat stages.

    Args:
        program: a finished program.
        values: its flat inputs and state, whose sizes the trace starts from.
        dynamic: keep sizes symbolic.
    """
    assert program.graph is not None
    env = ShapeEnv(duck_shape=False)
    mode = FakeTensorMode(shape_env=env if dynamic else None, allow_non_fake_inputs=True)
    names = [n.name for n in program.graph.graph.find_nodes(op="placeholder")]
    fakes: dict[str, Any] = {
        name: fake_input(mode, value, name, dynamic) for name, value in zip(names, values, strict=True)
    }
    holder = nn.Module()
    settings = entered(program.capture.settings)
    with (
        LOCK,
        pristine(program.capture.model),
        torch.no_grad(),
        uncompiled(),
        _compiling_state_context(),
        settings,
    ):
        for name, stage in program.stages.items():
            holder.add_module(name, _flat_stage(stage, fakes, mode))
    graph = Graph()
    graph.output(graph.graph_copy(program.graph.graph, {}))
    return GraphModule(holder, graph, class_name=type(program.graph).__name__)


def _flat_stage(stage: Stage, fakes: dict[str, Any], mode: FakeTensorMode) -> GraphModule:
    inputs = [fakes[name] for name in stage.inputs]
    with mode:
        results = stage.graph(*inputs)
    fakes.update(zip(stage.outputs, results, strict=True))
    return make_fx(stage.graph, tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
