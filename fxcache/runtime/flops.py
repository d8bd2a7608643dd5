"""Floating-point operations of a step, counted from the graph: computed and cached separately."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ..capture.trace_lock import LOCK
from ..capture.uncompiled_functions import uncompiled
from ..environment.ambient_settings import entered
from ..environment.trace_sandbox import pristine
from ..ir.interpret import StageInterpreter
from ..ir.keys import stage_names
from ..ir.program import Program
from ..ir.stage import Stage
from ..torch_private import FakeTensorMode, ShapeEnv

Described = tuple[tuple[int, ...], torch.dtype, torch.device]


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of a step by segment: what always runs, what a miss adds, what a hit adds."""

    trunk: int
    compute: tuple[int, ...]
    skip: tuple[int, ...]

    @property
    def computed(self) -> int:
        """A step in which every segment computes."""
        return self.trunk + sum(self.compute)

    @property
    def cached(self) -> int:
        """A step in which every segment hits."""
        return self.trunk + sum(self.skip)


def count_step(
    program: Program, inputs: Sequence[Described], symbols: Mapping[sympy.Symbol, Any]
) -> StepFlops | None:
    """Count a step, on fake tensors: nothing is computed, no state changes.

    Multiply-adds count as two; matrix products, convolutions and attention are counted.

    Args:
        program: a transformed program.
        inputs: shape, dtype and device of each flat input.
        symbols: the capture's sizes at those shapes.

    Returns:
        None where the model's modules cannot run on fake tensors.
    """
    counts = count_stages(program, inputs, symbols)
    if counts is None:
        return None
    segments = len(program.segments)
    return StepFlops(
        trunk=counts["back"] + sum(counts[n] for n in stage_names("front", segments)),
        compute=tuple(counts[n] for n in stage_names("compute", segments)),
        skip=tuple(counts[n] for n in stage_names("skip", segments)),
    )


def count_stages(
    program: Program, inputs: Sequence[Described], symbols: Mapping[sympy.Symbol, Any]
) -> dict[str, int] | None:
    """FLOPs of each stage by its name; arguments and None as in `count_step`."""
    try:
        return _count(program, inputs, symbols)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # whatever a module raises on tensors without values
        return None


def _count(
    program: Program, inputs: Sequence[Described], symbols: Mapping[sympy.Symbol, Any]
) -> dict[str, int]:
    placeholders = program.capture.graph.graph.find_nodes(op="placeholder")
    with (
        LOCK,
        pristine(program.capture.model),
        torch.no_grad(),
        uncompiled(),
        FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv(allow_scalar_outputs=True)),
    ):
        values: dict[str, Any] = {
            node.name: torch.empty(shape, dtype=dtype, device=device)
            for node, (shape, dtype, device) in zip(placeholders, inputs, strict=True)
        }
        for place in program.capture.numbers:  # a fake tensor would not say what number it holds
            values[placeholders[place].name] = torch.tensor(1, dtype=inputs[place][1])
        for tensor in program.state:
            sizes = tensor.sizes(symbols)
            if sizes is None:
                raise ValueError(f"the shape of {tensor.name} depends on data")
            values[tensor.name] = torch.empty(sizes, dtype=tensor.dtype, device=tensor.device)
        with entered(program.capture.settings):
            counting = _Counting(len(program.segments))
            counting.every(program.stages, values)
    return counting.counts


class _Counting(StageInterpreter):
    """counts: the FLOPs of each stage that it ran, by name."""

    def __init__(self, segments: int) -> None:
        super().__init__(segments)
        self.counts: dict[str, int] = {}

    def run(self, stage: Stage, values: dict[str, Any]) -> None:
        counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
        counter.mod_tracker = _Whole()  # type: ignore[assignment]
        with counter:
            super().run(stage, values)
        self.counts[stage.name] = int(counter.get_total_flops())


class _Whole:
    """In the place of the tracker by which torch counts module by module: its hooks are global ones.

    They would be called for what other threads run, too, and wrapped modules warn of them.
    """

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def _cpu_attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    # Shapes, not tensors: that is how the counter calls its formulas.
    return int(sdpa_flop_count(query, key, value))


# torch counts attention on accelerators only; the CPU kernel does the same products.
CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention}
