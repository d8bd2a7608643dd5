"""Plans at the output, for every class: computed steps are the model's, hits the sum as it is written."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fxcache import CacheConfig, Plan
from tests.behaviour.zoo import ALL_CASES, ZooCase, find
from tests.behaviour.zoo.against_reference import relative_error
from tests.behaviour.zoo.nested import tensors_in
from tests.behaviour.zoo.running import Captured, Run, bit_equal, captured, run_original
from tests.behaviour.zoo.tiers import FAST, REFUSED, over
from tests.behaviour.zoo.trajectory import trajectory
from tests.plans.reference import follow
from tests.sweep import sweep

PLAN = Plan(
    steps=5,
    computed=(0, 1, 3),
    weights=((1, 0, 0), (1, 0, 0), (0, 1.5, -0.5), (1.25, -0.5, 0.25), (0, 1, 0)),
)


def _check(case: ZooCase, found: Captured) -> None:
    run = Run(found, found.program(CacheConfig.from_plans(PLAN)))
    changing = case.latent_names + case.timestep_names
    steps = [{**found.inputs, **{n: step[n] for n in changing}} for step in trajectory(case, PLAN.steps)]
    results = [run(inputs) for inputs in steps]
    plain = [run_original(found.model, inputs) for inputs in steps]
    assert bit_equal(results[0], plain[0]) and bit_equal(results[1], plain[1])
    outputs = [tensors_in(p) for p in plain]
    for place, first in enumerate(outputs[0]):
        got = [tensors_in(r)[place] for r in results]
        values: list[Tensor] = [o[place] for o in outputs]
        if not first.dtype.is_floating_point:  # no differences: replayed
            assert torch.equal(got[2], values[1]) and torch.equal(got[3], values[3])
            continue
        used = follow(PLAN, [lambda v=v: v for v in values])
        for step in (2, 3, 4):
            assert relative_error(got[step], used[step]) < 1e-5, f"output {place}, step {step}"


# A plan caches outputs, whatever made them: the last two differ in how they are captured.
@pytest.mark.parametrize("name", sweep(FAST, FAST[-2:]))
def test_a_plan_is_its_sum(name: str) -> None:
    _check(find(name), captured(find(name)))


@pytest.mark.full
@over(ALL_CASES, but=tuple(REFUSED))
def test_a_plan_is_its_sum_for_every_class(case: ZooCase) -> None:
    _check(case, captured(case))
