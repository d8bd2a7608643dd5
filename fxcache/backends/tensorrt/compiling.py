"""Compile a program's stages: the lowering that `fxcache.compile(backend="tensorrt")` plugs in."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...environment.module_mutations import with_effects
from ...errors import EngineRangeError, FixedWeightsError, LeftoverOperatorsWarning, RepeatedWeightsWarning
from ...ir.program import Program
from .available import require_gpu, require_torch_tensorrt
from .lowering import Coverage, engines_in, lower_stage, require_full, with_repeated
from .options import TensorRTOptions
from .prepare import Prepared, prepare
from .runner import EngineSet, HostRunner, StageRunner
from .shape_ranges import Shape, Sizes, sizes_of, specs_of


def dtype_of(program: Program) -> torch.dtype:
    """The dtype in which the blocks compute: that of the primary stream."""
    return program.main_value.dtype  # type: ignore[no-any-return]


def flat_names(program: Program) -> tuple[str, ...]:
    """Names of the flat inputs in the graph."""
    return tuple(n.name for n in program.capture.graph.graph.find_nodes(op="placeholder"))


def captured_shapes(program: Program) -> tuple[Shape, ...]:
    """Shapes of the flat inputs of the call that was captured."""
    nodes = program.capture.graph.graph.find_nodes(op="placeholder")
    return tuple(tuple(_hint(s) for s in n.meta["val"].shape) for n in nodes)


def _hint(size: Any) -> int:
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def prepare_all(
    program: Program, shapes: Sequence[Shape], options: TensorRTOptions
) -> tuple[Sizes, list[Prepared]]:
    """Every stage of `program`, prepared for the range of sizes around `shapes`."""
    sizes = sizes_of(program, shapes, options.dynamic)
    if not sizes.hold([tuple(s) for s in shapes]):
        raise EngineRangeError(f"inputs of shapes {list(shapes)}", "they lie outside the range")
    specs = specs_of(program, sizes)
    cast = options.cast_to(dtype_of(program))
    return sizes, [prepare(program, stage, specs, cast) for stage in program.stages.values()]


def coverage_of(program: Program, options: TensorRTOptions) -> tuple[Coverage, ...]:
    """Lower and partition every stage without building an engine. Needs no GPU, only torch-tensorrt."""
    require_torch_tensorrt()
    _, stages = prepare_all(program, captured_shapes(program), options)
    settings = options.settings()
    return with_repeated(stages, [lower_stage(stage, settings, dry=True)[1] for stage in stages])


@dataclass(frozen=True)
class Lowered:
    """A lowering for `Specializations`: `Lowered(options)(program)` is what the specialization runs.

    eager: run the engines' pieces in PyTorch and need no torch-tensorrt, to check the cut alone.
    """

    options: TensorRTOptions
    eager: bool = False

    def __call__(self, program: Program) -> HostRunner:
        state = [s.name for s in program.state]

        def build(shapes: Sequence[Shape]) -> EngineSet:
            self._refuse_outside(runner, shapes)
            built = self._build(program, shapes)
            _warn_of_weights(built.coverage, earlier=len(runner.sets))
            return built

        runner = HostRunner(flat_names(program), state, len(program.segments), build)
        return runner

    def _build(self, program: Program, shapes: Sequence[Shape]) -> EngineSet:
        sizes, stages = prepare_all(program, shapes, self.options)
        if self.eager:
            return EngineSet(sizes, {s.name: StageRunner(s, None) for s in stages}, {})
        require_torch_tensorrt()
        require_gpu(program.capture.model.parameters())
        settings = self.options.settings()
        # Of every stage before any is built: what stays in PyTorch should not cost minutes to learn.
        expected = [lower_stage(stage, settings, dry=True)[1] for stage in stages]
        for one in expected:
            if self.options.require_full:
                require_full(one)
            _warn_of_leftovers(one)
        built = [lower_stage(stage, settings, dry=False) for stage in stages]
        modules = {s.name: module for s, (module, _) in zip(stages, built, strict=True)}
        coverage = [
            replace(one, engines=len(engines_in(module)))
            for one, (module, _) in zip(expected, built, strict=True)
        ]
        runners = {s.name: StageRunner(s, modules[s.name]) for s in stages}
        return EngineSet(sizes, runners, modules, with_repeated(stages, coverage))

    def _refuse_outside(self, runner: HostRunner, shapes: Sequence[Shape]) -> None:
        if runner.sets and isinstance(self.options.dynamic, Mapping):
            raise EngineRangeError(f"inputs of shapes {list(shapes)}", "they lie outside the range asked for")


def _warn_of_leftovers(coverage: Coverage) -> None:
    if not coverage.full:
        left = ", ".join(f"{name} ({why})" for name, why in coverage.leftovers.items())
        message = f"stage '{coverage.stage}' became {coverage.engines} engines; in PyTorch: {left}"
        warnings.warn(message, LeftoverOperatorsWarning, stacklevel=2)


def _warn_of_weights(coverage: Sequence[Coverage], earlier: int) -> None:
    """Engines hold copies of the weights: say so where more than one holds the same."""
    again = {c.stage: c.repeated for c in coverage if c.repeated}
    whole = sum(c.weights for c in coverage)
    if again:
        stages = ", ".join(f"'{stage}' ({size / 2**20:.1f} MB)" for stage, size in again.items())
        message = f"weights that an earlier stage's engine holds are held again by {stages}"
        warnings.warn(message, RepeatedWeightsWarning, stacklevel=2)
    if earlier and whole:
        message = (
            f"engines for other sizes hold the model's weights once more ({whole / 2**20:.1f} MB); "
            "give dynamic= a range that covers all sizes to build one set"
        )
        warnings.warn(message, RepeatedWeightsWarning, stacklevel=2)


def refit_set(program: Program, known: EngineSet, options: TensorRTOptions) -> EngineSet:
    """The engines of `known` with the model's present weights, for the sizes that they were built for.

    Raises `FixedWeightsError` where they were built without `refit=True`.
    """
    if not options.refittable:
        raise FixedWeightsError
    package = require_torch_tensorrt()
    require_gpu(program.capture.model.parameters())
    # with what the forward sets on its modules in force (a LoRA scale): it is part of the weights
    prepare = with_effects(prepare_all, program.capture.effects)
    _, stages = prepare(program, known.sizes.usual, options)
    modules = dict(known.modules)
    for stage in stages:
        if modules[stage.name] is not None and stage.exported is not None and stage.exported.state_dict:
            modules[stage.name] = package.dynamo.refit_module_weights(modules[stage.name], stage.exported)
    runners = {s.name: StageRunner(s, modules[s.name]) for s in stages}
    return EngineSet(known.sizes, runners, modules, known.coverage)
