"""Plans by formula: how many steps, which, and what their rows do to simple outputs."""

from __future__ import annotations

import itertools

import pytest

import fxcache
from fxcache.errors import PlanError, UnknownOptionError
from fxcache.plans.formula import estimate, weights
from fxcache.plans.schedule import computed_steps, even_time

BUDGETS = list(itertools.product((2, 3, 10, 28, 50, 256), (1, 1.5, 2, 2.5, 4, 100)))


@pytest.mark.parametrize(("steps", "speedup"), BUDGETS)
def test_a_plan_computes_no_more_than_its_budget(steps: int, speedup: float) -> None:
    plan = fxcache.plan(steps, speedup)
    assert len(plan.computed) == max(int(steps / speedup), 2)
    assert (plan.computed[0], plan.computed[-1]) == (0, steps - 1)


@pytest.mark.parametrize(("steps", "speedup"), BUDGETS)
def test_a_constant_is_given_as_it_is(steps: int, speedup: float) -> None:
    for row in fxcache.plan(steps, speedup).weights:
        assert sum(row) == pytest.approx(1, abs=1e-6)


def test_everything_computed_is_the_model_itself() -> None:
    plan = fxcache.plan(28, 1)
    assert set(plan.weights) == {(1.0, 0.0, 0.0, 0.0)}


def test_an_estimate_at_a_known_time_is_nearly_what_is_known() -> None:
    assert estimate(0.4, [0.8, 0.4, 0.0]) == pytest.approx([0, 1, 0], abs=0.01)


def test_an_estimate_follows_a_line_exactly() -> None:
    found = estimate(0.47, [0.4, 0.33, 0.1])
    assert sum(w * (3 - 2 * t) for w, t in zip(found, (0.4, 0.33, 0.1), strict=True)) == pytest.approx(2.06)


def test_steps_after_a_gap_pay_back_and_no_others() -> None:
    plan, off = fxcache.plan(28, 2.5), fxcache.plan(28, 2.5, feedback=False)
    assert not any(off.is_corrected(step) for step in off.computed)
    corrected = [step for step in plan.computed if plan.is_corrected(step)]
    assert corrected == [b for a, b in itertools.pairwise(plan.computed) if b - a > 1]
    assert all(plan.weights[step][0] > 1 for step in corrected)


def test_what_is_paid_back_is_the_error_of_the_steps_before() -> None:
    """The sum over a gap and the step after it is that of the better estimates."""
    computed = (0, 1, 4, 5)
    rows, times = weights(6, computed), [even_time(step / 5) for step in range(6)]
    values = {step: step**2 for step in computed}

    def given(step: int) -> float:
        own = [values.get(step, 0), *(values[s] for s in reversed(computed) if s < step)]
        return sum(w * v for w, v in zip(rows[step], own, strict=False))

    def better(step: int) -> float:
        known = [4, 1, 0]
        found = estimate(times[step], [times[s] for s in known])
        return sum(w * values[s] for w, s in zip(found, known, strict=True))

    assert given(2) + given(3) + given(4) == pytest.approx(better(2) + better(3) + values[4])


def test_the_last_step_is_not_corrected() -> None:
    rows = weights(6, (0, 1, 5))
    assert rows[-1] == (1.0, 0.0, 0.0, 0.0)


def test_schedules_are_dense_at_both_ends() -> None:
    gaps = [b - a for a, b in itertools.pairwise(computed_steps(50, 16))]
    assert gaps[0] < max(gaps) > gaps[-1]
    assert gaps.index(max(gaps)) in range(5, 10)


@pytest.mark.parametrize("speedup", [0.5, float("nan"), float("inf"), "2"])
def test_no_speedup(speedup: float) -> None:
    with pytest.raises(PlanError, match="speedup"):
        fxcache.plan(28, speedup)


@pytest.mark.parametrize("steps", [1, 257, 2.5, True])
def test_no_number_of_steps(steps: int) -> None:
    with pytest.raises(PlanError, match="2 to 256"):
        fxcache.plan(steps, 2)


def test_an_option_that_does_not_exist() -> None:
    with pytest.raises(UnknownOptionError, match="feedback"):
        fxcache.plan(28, 2, feedbck=False)  # type: ignore[call-arg]
