"""Run prepared stages on the host: engines for the arithmetic, a Python `if` for the decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...ir.interpret import StageInterpreter, run_part
from .lowering import Coverage
from .prepare import Prepared
from .shape_ranges import Shape, Sizes
from .split_bookkeeping import Piece


class StageRunner:
    """One stage: its pieces in order, over named values; the engine's piece run by `engine`."""

    def __init__(self, stage: Prepared, engine: Callable[..., Any] | None) -> None:
        self.stage = stage
        self._steps: list[tuple[Piece, Callable[..., Any]]] = []
        for piece in stage.pieces:
            run = engine if piece.place == "engine" and engine is not None else piece.graph
            if piece.place != "effects":  # these write to what they are given, never to a copy
                run = _on_contiguous(run)
            self._steps.append((piece, run))

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.stage.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.stage.outputs

    def __call__(self, values: dict[str, Any]) -> None:
        """Run on `values`, which holds the stage's inputs; adds its outputs."""
        local = dict(values)
        for piece, run in self._steps:
            run_part(piece, run, local)
        values.update((n, local[f]) for n, f in zip(self.stage.outputs, self.stage.found, strict=True))


def _on_contiguous(run: Callable[..., Any]) -> Callable[..., Any]:
    """Engines, and what was exported with them, were made for contiguous tensors."""

    def running(*values: Any) -> Any:
        return run(*[v.contiguous() if isinstance(v, torch.Tensor) else v for v in values])

    running.__wrapped__ = run  # type: ignore[attr-defined]  # for `inspect.unwrap`
    return running


@dataclass(frozen=True)
class EngineSet:
    """All stages of a program, for one range of sizes: their engines, and where operators run."""

    sizes: Sizes
    stages: Mapping[str, StageRunner]
    modules: Mapping[str, nn.Module | None]
    coverage: tuple[Coverage, ...] = ()


class _Engines(StageInterpreter):
    """Its stages are runners."""

    def run(self, stage: Any, values: dict[str, Any]) -> None:
        stage(values)


class HostRunner:
    """A function of the flat inputs and the state: what a specialization runs.

    Args:
        inputs, state: their names, in the order of the arguments.
        segments: how many decisions a step makes.
        sets: engine sets built so far. `build` makes one for the shapes of other flat inputs, or raises.
    """

    def __init__(
        self,
        inputs: Sequence[str],
        state: Sequence[str],
        segments: int,
        build: Callable[[Sequence[Shape]], EngineSet],
    ) -> None:
        self.sets: list[EngineSet] = []
        self._inputs, self._names = tuple(inputs), (*inputs, *state)
        self._build = build
        self._interpreter = _Engines(segments)

    def __call__(self, *flat: Any) -> tuple[Any, ...]:
        values = dict(zip(self._names, flat, strict=True))
        stages = self.set_for([tuple(t.shape) for t in flat[: len(self._inputs)]]).stages
        self._interpreter.step(stages, values)
        state = {id(t) for t in flat}
        outputs = [values[n] for n in stages["back"].stage.outputs]
        return tuple(t.clone() if id(t) in state else t for t in outputs)  # state changes under the caller

    def set_for(self, shapes: Sequence[Shape]) -> EngineSet:
        """The engine set that serves inputs of `shapes`, built when there is none."""
        for known in self.sets:
            if known.sizes.hold(shapes):
                return known
        self.sets.append(self._build(shapes))
        return self.sets[-1]
