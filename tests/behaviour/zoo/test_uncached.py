"""With nothing cached the transformed model is the model, bit for bit, wherever it is cut."""

from __future__ import annotations

import pytest

from fxcache import CacheConfig
from fxcache.errors import CaptureError, TooManyBlocksError
from tests.behaviour.zoo import ALL_CASES, ZooCase, find
from tests.behaviour.zoo.running import Captured, Run, bit_equal, captured, run_original
from tests.behaviour.zoo.tiers import FAST, REFUSED, over
from tests.sweep import sweep


def _uncached(fn: int, bn: int) -> CacheConfig:
    return CacheConfig(fn_compute_blocks=fn, bn_compute_blocks=bn, residual_diff_threshold=0.0)


def _check(case: ZooCase, found: Captured, fn: int, bn: int, scope: str) -> bool:
    """Compare two steps with fresh inputs; False where the scope's lists have too few blocks."""
    try:
        program = found.program(_uncached(fn, bn), scope)
    except TooManyBlocksError:
        return False
    run = Run(found, program)
    for seed in (3, 4):
        inputs = {**found.inputs, **_changing(case, seed)}
        assert bit_equal(run(inputs), run_original(found.model, inputs)), f"F{fn}B{bn} {scope}, seed {seed}"
    return True


def _changing(case: ZooCase, seed: int) -> dict[str, object]:
    fresh = case.fresh_inputs(seed)
    return {name: fresh[name] for name in case.latent_names + case.timestep_names}


@pytest.mark.parametrize("name", FAST)
def test_uncached_steps_are_bit_equal_at_some_positions(name: str) -> None:
    case = find(name)
    found = captured(case)
    blocks = len(found.program(_uncached(1, 0)).chain)
    for fn, bn in ((1, 1), (blocks // 2, 0)):
        assert _check(case, found, fn, bn, "model")
    assert _check(case, found, 1, 0, "list")


@pytest.mark.full
@over(ALL_CASES, but=tuple(REFUSED))
def test_uncached_steps_are_bit_equal_at_every_position(case: ZooCase) -> None:
    found = captured(case)
    blocks = len(found.program(_uncached(1, 0)).chain)
    for fn in range(1, blocks + 1):
        for bn in range(blocks - fn + 1):
            assert _check(case, found, fn, bn, "model")
            _check(case, found, fn, bn, "list")


@pytest.mark.parametrize("name", sweep(REFUSED, tuple(REFUSED)[:1]))
def test_what_cannot_be_captured_says_why(name: str) -> None:
    kind, reason = REFUSED[name]
    with pytest.raises(kind, match=reason):
        captured(find(name))


@pytest.mark.full
def test_the_model_is_left_as_it_was_by_a_capture() -> None:
    """Its rotary embedder is a plain object that memoises; tracing must leave nothing fake in it."""
    case = find("ZImageTransformer2DModel")
    untouched, inputs = case.build()
    assert bit_equal(run_original(captured(case).model, inputs), run_original(untouched, inputs))


def test_a_capture_error_has_one_line_for_each_way() -> None:
    with pytest.raises(CaptureError) as caught:
        captured(find("AnyFlowFARTransformer3DModel"))
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines[1:-1]] == ["  - symbolic", "  - static", "  - real"]
    assert "[" not in str(caught.value)
