"""Flatten a program: every stage down to ATen operators, its modules' parameters as attributes.

Needed where branches that update state are compiled for dynamic sizes: functionalizing such a branch asks
composite operators (`aten.linear`) for concrete sizes and would fix them silently. A flat program
holds the modules as they are now; use it only where that is meant (export).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule

from ..capture.capture import fake_input
from ..capture.operator_schemas import NUMBERS_WANTED
from ..capture.trace_lock import LOCK
from ..capture.uncompiled_functions import uncompiled
from ..environment.ambient_settings import entered
from ..environment.trace_sandbox import pristine
from ..ir.interpret import StageInterpreter
from ..ir.program import Program
from ..ir.stage import Stage
from ..torch_private import (
    FakeTensorMode,
    ShapeEnv,
    as_if_compiling,
    compile_lock,
    enable_python_dispatcher,
    make_fx,
)


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
    flattening = _Flattening(len(program.segments), mode)
    settings = entered(program.capture.settings)
    with (
        LOCK,
        compile_lock,
        pristine(program.capture.model),
        torch.no_grad(),
        uncompiled(),
        as_if_compiling(),
        settings,
    ):
        flattening.every(program.stages, fakes)
    graph = Graph()
    graph.output(graph.graph_copy(program.graph.graph, {}))
    return GraphModule(flattening.flat, graph, class_name=type(program.graph).__name__)


class _Flattening(StageInterpreter):
    """flat: the stages that it ran, traced on the fake values that they ran on, by name."""

    def __init__(self, segments: int, mode: FakeTensorMode) -> None:
        super().__init__(segments)
        self.flat: dict[str, Any] = {}
        self._mode = mode

    def run(self, stage: Stage, values: dict[str, Any]) -> None:
        try:
            self._flatten(stage, values)
        except RuntimeError as error:
            if NUMBERS_WANTED not in str(error):
                raise
            with enable_python_dispatcher():  # whose operators take symbols where the kernels do not
                self._flatten(stage, values)

    def _flatten(self, stage: Stage, values: dict[str, Any]) -> None:
        inputs = [values[name] for name in stage.inputs]
        with self._mode:
            super().run(stage, values)
        self.flat[stage.name] = make_fx(stage.graph, tracing_mode="fake", _allow_non_fake_inputs=True)(
            *inputs
        )
