"""Run the stages of a program one after the other, over its values by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

from ..ops.known_decision import is_hit
from .keys import StageKind, ValueKey, stage_names


class Part(Protocol):
    """Something that takes values and returns values, both by name: a stage, or a piece of one."""

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...


P = TypeVar("P", bound=Part)


def run_part(part: Part, run: Callable[..., Iterable[Any]], values: dict[str, Any]) -> None:
    """Call `run` on the inputs of `part`, which `values` holds, and add its outputs there.

    Example:
        >>> from types import SimpleNamespace
        >>> from fxcache.ir.interpret import run_part
        >>> values = {"x": 2}
        >>> run_part(SimpleNamespace(inputs=("x",), outputs=("y",)), lambda x: (x + 1,), values)
        >>> values
        {'x': 2, 'y': 3}
    """
    results = run(*[values[name] for name in part.inputs])
    values.update(zip(part.outputs, results, strict=True))


class StageInterpreter:
    """Runs stages, as `torch.fx.Interpreter` runs nodes: a subclass says how one runs, or which way to go.

    Args:
        segments: how many decisions a step makes.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> import fxcache
        >>> from fxcache.ir.interpret import StageInterpreter
        >>> layer = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=8)
        >>> model = nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False).eval()
        >>> inputs = {"src": torch.randn(3, 1, 8)}
        >>> cached = fxcache.transform(model, "F1B1_W4M0MC3_T1O1_R0.12", example_inputs=inputs)
        >>> program = cached.graph.program
        >>> sizes = program.capture.shapes.bind([inputs["src"].shape])
        >>> values = {**inputs, **{tensor.name: tensor.allocate(sizes) for tensor in program.state}}
        >>> class Told(StageInterpreter):
        ...     def run(self, stage, values):
        ...         print(stage.name)
        ...         super().run(stage, values)
        >>> told = Told(segments=1)
        >>> with torch.no_grad():
        ...     told.step(program.stages, values)
        front
        compute
        back
        >>> told.hits(0, values), values["output_0"].shape
        (False, torch.Size([3, 1, 8]))
    """

    def __init__(self, segments: int) -> None:
        kinds: tuple[StageKind, ...] = ("front", "skip", "compute")
        self._ways = tuple(zip(*(stage_names(kind, segments) for kind in kinds), strict=True))

    def step(self, stages: Mapping[str, P], values: dict[str, Any]) -> None:
        """One step: of each segment, the way that was decided. Adds to `values` what every stage returns."""
        for index, (front, skip, compute) in enumerate(self._ways):
            self.run(stages[front], values)
            self.run(stages[skip if self.hits(index, values) else compute], values)
        self.run(stages["back"], values)

    def every(self, stages: Mapping[str, P], values: dict[str, Any]) -> None:
        """Every stage once, in the program's order: of each segment both ways, so on fake values only.

        Example:
            >>> from fxcache.ir.interpret import StageInterpreter
            >>> class Told(StageInterpreter):
            ...     def run(self, stage, values):
            ...         print(stage)
            >>> Told(segments=1).every({"front": "f", "skip": "s", "compute": "c", "back": "b"}, values={})
            f
            s
            c
            b
        """
        for stage in stages.values():
            self.run(stage, values)

    def run(self, stage: Any, values: dict[str, Any]) -> None:
        """Run one stage. By default its graph, as it is."""
        run_part(stage, stage.graph, values)

    def hits(self, index: int, values: Mapping[str, Any]) -> bool:
        """Whether segment `index` is skipped. By default what the front before it decided."""
        return is_hit(values[ValueKey("hit", index).name])
