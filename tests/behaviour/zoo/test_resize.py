"""Other sizes through the same transformed model: the model's result, from a clean trajectory."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fxcache
from fxcache import CachedTransformer
from tests.behaviour.zoo import ALL_CASES, ZooCase, find
from tests.behaviour.zoo.against_reference import forced
from tests.behaviour.zoo.nested import map_tensors, tensors_in
from tests.behaviour.zoo.running import bit_equal, run_original
from tests.behaviour.zoo.tiers import REFUSED, over
from tests.sweep import sweep

RESIZED = tuple(case for case in ALL_CASES if case.resize is not None)
FAST = (
    "ChromaTransformer2DModel",  # symbolic: the same graph serves both
    "Lumina2Transformer2DModel",  # real: another graph
)


def _at_half_time(case: ZooCase, inputs: dict[str, Any]) -> dict[str, Any]:
    halved = {n: map_tensors(lambda t: (t / 2).to(t.dtype), inputs[n]) for n in case.timestep_names}
    return {**inputs, **halved}


def _check(case: ZooCase) -> CachedTransformer:
    assert case.resize is not None
    model, inputs = case.build()
    resized = case.resize(inputs)
    cached = fxcache.transform(model, forced(order=0).replace(steps_mask=(1, 0, 0)))
    with torch.no_grad():
        cached(**inputs)
        # Time falls, so by time this is the second step, a hit; by size it starts a trajectory.
        found = tensors_in(cached(**_at_half_time(case, resized)))
        assert bit_equal(found, run_original(model, _at_half_time(case, resized)))
        assert next(iter(cached.stats().contexts.values())).hits == (False,)
        # And back again, at the time of the first step: a new trajectory.
        assert bit_equal(tensors_in(cached(**inputs)), run_original(model, inputs))
    return cached


@pytest.mark.parametrize("name", sweep(FAST, FAST[:1]))
def test_resized_inputs_start_clean(name: str) -> None:
    _check(find(name))


def test_one_graph_serves_all_sizes_where_they_are_free() -> None:
    assert len(_check(find("FluxTransformer2DModel"))._specializations.all()) == 1


@pytest.mark.full
@over(RESIZED, but=tuple(REFUSED))
def test_resized_inputs_start_clean_for_every_case(case: ZooCase) -> None:
    _check(case)
