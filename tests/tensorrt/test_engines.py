"""Every stage, dtype and kind of shape: torch-tensorrt lowers it right, covers it, and builds an engine.

The lowered and partitioned graph runs in PyTorch and is compared with the stage's own; the engines are
built by TensorRT from the same graph and are not run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch

from fxcache.backends.tensorrt.compiling import captured_shapes, prepare_all
from fxcache.backends.tensorrt.lowering import engines_in, lower_stage
from fxcache.backends.tensorrt.options import DTYPES, TensorRTOptions
from fxcache.backends.tensorrt.prepare import Prepared
from fxcache.backends.tensorrt.sizes import Spec
from tests.tensorrt.models import BUILDERS, STAGES, program

pytestmark = [pytest.mark.tensorrt, pytest.mark.filterwarnings("default")]

# Lowering reorders sums and rounds between operators where the eager kernels do not.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def _cases() -> Iterator[Any]:
    for name in BUILDERS:
        for precision in DTYPES:
            for dynamic in (False, True):
                case = (name, precision, dynamic)
                quick = name in ("sd3", "wan", "pixart") or not dynamic
                quick = quick and (not dynamic or precision == "fp32")
                yield pytest.param(*case, marks=() if quick else pytest.mark.full)


def _stage(name: str, precision: str, dynamic: bool, stage: str) -> Prepared:
    return next(s for s in _stages(name, precision, dynamic) if s.name == stage)


@cache
def _stages(name: str, precision: str, dynamic: bool) -> list[Prepared]:
    found = program(name, DTYPES[precision])
    return prepare_all(found, captured_shapes(found), TensorRTOptions(dynamic=dynamic))[1]


def _filled(specs: list[Spec], end: str) -> list[torch.Tensor]:
    """Random values of the shapes at one end of the range."""
    generator = torch.Generator().manual_seed(0)
    values = []
    for spec in specs:
        assert spec.dtype is not None
        value = torch.randn(getattr(spec, end), generator=generator)
        values.append((value > 0) if spec.dtype == torch.bool else value.to(spec.dtype))
    return values


@pytest.mark.parametrize("stage_name", STAGES)
@pytest.mark.parametrize(("name", "precision", "dynamic"), _cases())
def test_stage(name: str, precision: str, dynamic: bool, stage_name: str) -> None:
    stage = _stage(name, precision, dynamic, stage_name)
    settings = TensorRTOptions(dynamic=dynamic).settings(DTYPES[precision])
    assert stage.engine is not None
    lowered, coverage = lower_stage(copy.copy(stage), settings, dry=True)

    assert coverage.leftovers == {} and coverage.engines == 1 and coverage.full
    assert coverage.in_engines > 0
    assert lowered is not None
    specs = [stage.specs[n] for n in stage.engine.inputs]
    for end in ("low", "usual", "high") if dynamic else ("usual",):
        values = _filled(specs, end)
        _close(lowered(*values), stage.engine.graph(*values), TOLERANCE[DTYPES[precision]])

    built, _ = lower_stage(stage, settings, dry=False)
    (engine,) = engines_in(built).values()
    assert len(engine.serialized_engine) > 1000


def _close(found: Any, expected: Any, tolerance: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        if theirs.dtype == torch.bool:
            assert torch.equal(ours, theirs)
        else:
            scale = theirs.float().abs().nan_to_num().max().clamp(min=1)
            error = (ours.float() - theirs.float()).abs().nan_to_num().max()
            assert torch.equal(ours.isnan(), theirs.isnan()) and error <= tolerance * scale
