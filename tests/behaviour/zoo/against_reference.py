"""Compare a cached trajectory of a case, step by step, with the run-time reference."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fxcache import CacheConfig, TaylorSeer
from tests.reference import CachedReference, NotExpressibleError

from .case import ZooCase
from .nested import tensors_in
from .running import Captured, Run, bit_equal
from .trajectory import trajectory

MASK = "1101001"

NOT_EXPRESSIBLE = {
    "HunyuanDiT2DModel": "long skips: back blocks take values of middle blocks",
    "UVit2DModel": "long skips",
    "RFD4ProteinaTransformer": "the pair stream is updated by side modules, not by blocks",
    "RFD4ProteinaTransformer:recycle3": "the pair stream is updated by side modules, not by blocks",
}
"""Cases whose hits replaced forwards cannot say, and why; the graph's own tests cover them."""


@dataclass(frozen=True)
class Comparison:
    """Steps that compute are bit-equal to the model; hits differ from the reference by `error` at most."""

    computed_equal: bool
    error: float


def forced(order: int, fn: int = 1, bn: int = 1) -> CacheConfig:
    """A config whose hits are those of MASK."""
    return CacheConfig(
        fn_compute_blocks=fn,
        bn_compute_blocks=bn,
        steps_mask=MASK,  # type: ignore[arg-type]
        steps_mask_policy="static",
        forecaster=TaylorSeer(order=1) if order else None,
    )


def compare(case: ZooCase, found: Captured, order: int, fn: int = 1, bn: int = 1) -> Comparison:
    """Run MASK through both. Raises `NotExpressibleError` where the reference cannot follow."""
    if case.name in NOT_EXPRESSIBLE:
        raise NotExpressibleError(NOT_EXPRESSIBLE[case.name])
    program = found.program(forced(order, fn, bn))
    run = Run(found, program)
    reference = CachedReference(case.build()[0], [b.name for b in program.chain], fn, bn, order)
    equal, error = True, 0.0
    for inputs, mark in zip(trajectory(case, len(MASK)), MASK, strict=True):
        got = run(_like_captured(found, case, inputs))
        expected = tensors_in(reference(inputs, hit=mark == "0"))
        if mark == "1":
            equal = equal and bit_equal(got, expected)
        else:
            error = max(error, *map(relative_error, got, expected))
    return Comparison(equal, error)


def _like_captured(found: Captured, case: ZooCase, inputs: dict[str, object]) -> dict[str, object]:
    changing = case.latent_names + case.timestep_names
    return {**found.inputs, **{name: inputs[name] for name in changing}}


def relative_error(got: Tensor, expected: Tensor) -> float:
    scale = max(1.0, float(expected.double().abs().max()))
    return float((got.double() - expected.double()).abs().max()) / scale
