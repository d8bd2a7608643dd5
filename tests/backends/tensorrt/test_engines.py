"""Every stage, dtype and kind of shape: torch-tensorrt lowers it right, covers it, and builds an engine.

The lowered and partitioned graph runs in PyTorch and is compared with the stage's own; the engines are
built by TensorRT from the same graph and are not run.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest
import torch

from fxcache.backends.tensorrt.compiling import captured_shapes, prepare_all
from fxcache.backends.tensorrt.lowering import engines_in, lower_stage
from fxcache.backends.tensorrt.options import DTYPES, TensorRTOptions
from fxcache.backends.tensorrt.prepare import Prepared
from fxcache.backends.tensorrt.shape_ranges import Spec
from tests.backends.tensorrt.models import BUILDERS, STAGES, program

pytestmark = [pytest.mark.tensorrt, pytest.mark.filterwarnings("default")]

# Lowering reorders sums and rounds between operators where the eager kernels do not.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


SOME = {  # batch and tokens open
    "flux": {"hidden_states": {0: (2, 4), 1: (16, 64)}},
    "sd3": {"hidden_states": {0: (2, 4)}, "encoder_hidden_states": {1: (4, 16)}},
    "wan": {"hidden_states": {0: (2, 4)}, "encoder_hidden_states": {1: (4, 16)}},
    "pixart": {"hidden_states": {0: (2, 4)}, "encoder_hidden_states": {1: (4, 16)}},
}
QUICK = {
    ("flux", "fp32", "static"),
    ("flux", "fp16", "static"),
    ("sd3", "bf16", "static"),
    ("wan", "fp32", "static"),
    ("pixart", "fp16", "static"),
    ("flux", "bf16", "some"),
    ("sd3", "fp16", "some"),
    ("wan", "bf16", "some"),
    ("pixart", "fp32", "some"),
}


def _cases() -> Iterator[Any]:
    for case in itertools.product(BUILDERS, DTYPES, ("static", "some", "all")):
        yield pytest.param(*case, marks=() if case in QUICK else pytest.mark.full)


def _options(name: str, sizes: str) -> TensorRTOptions:
    return TensorRTOptions(dynamic={"static": False, "some": SOME[name], "all": True}[sizes])


@lru_cache(maxsize=1)  # the stages of one case run one after the other
def _stages(name: str, precision: str, sizes: str) -> dict[str, Prepared]:
    found = program(name, DTYPES[precision])
    stages = prepare_all(found, captured_shapes(found), _options(name, sizes))[1]
    return {stage.name: stage for stage in stages}


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
@pytest.mark.parametrize(("name", "precision", "sizes"), list(_cases()))
def test_stage(name: str, precision: str, sizes: str, stage_name: str) -> None:
    stage = _stages(name, precision, sizes)[stage_name]
    settings = _options(name, sizes).settings()
    assert stage.engine is not None
    lowered, coverage = lower_stage(copy.copy(stage), settings, dry=True)

    assert coverage.leftovers == {} and coverage.engines == 1 and coverage.full
    assert coverage.in_engines > 0
    assert lowered is not None
    specs = [stage.specs[n] for n in stage.engine.inputs]
    for end in ("usual",) if sizes == "static" else ("low", "usual", "high"):
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
