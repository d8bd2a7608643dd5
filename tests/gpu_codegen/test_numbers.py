"""The kernels that are generated for a GPU compute what eager mode does: by Triton's interpreter."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import fxcache
from fxcache.backends.absent_gpu import target_gpu
from fxcache.ops.clock import ACCUMULATED, LIVE
from fxcache.ops.known_decision import knowing
from tests.sweep import sweep

from .fake_device import FakeDevice
from .generated import handing_over
from .interpreting import INTERPRETS, interpreting
from .subjects import CASES, PLAN, config_of, small

pytestmark = [
    pytest.mark.gpu_codegen,
    pytest.mark.skipif(not INTERPRETS, reason="run by tests/gpu_codegen/run.sh with TRITON_INTERPRET=1"),
]

SUBJECTS = [(name, setting) for name in CASES for setting in ("dbcache", "plan")]
FEW = [("flux", "dbcache"), ("flux", "plan")]
EXACT = ("clock", "fits", "knobs", "log_0[0]")  # what was counted, decided and set


@pytest.mark.parametrize(("name", "setting"), sweep(SUBJECTS, FEW, "-".join))
def test_generated_kernels_compute_what_eager_does(name: str, setting: str) -> None:
    """Computed steps and then a hit: the output of each, and the state after it."""
    model, inputs = small(name)
    config = (
        config_of(setting).replace(residual_diff_threshold=1e3)
        if setting == "dbcache"
        else config_of(setting)
    )
    eager = fxcache.transform(copy.deepcopy(model), config)
    steps = [{**inputs, "timestep": inputs["timestep"] * 0 + time} for time in times_of(inputs)]
    hits = [step not in PLAN.computed for step in range(len(steps))]
    steps = steps[: hits.index(True) + 1] if setting == "plan" else steps[:2]
    reference, call = eager.specialization_for(steps[0])
    expected = reference.allocate(call, config)
    held = {name: tensor.clone() for name, tensor in expected.items()}  # stands in the GPU's memory
    with target_gpu("sm_90"), interpreting(), torch.no_grad():
        device = FakeDevice()
        cached = fxcache.transform(device.move(model, real=True), config)
        cached.prepare(device.tree(inputs))
        specialization, _ = fxcache.compile(cached).specialization_for(device.tree(inputs))
        state = device.tree(list(held.values()), real=True)
        with handing_over(device) as graphs:
            for step, hit in zip(steps, hits, strict=False):
                tensors = eager.specialization_for(step)[1].tensors
                with knowing(hit if setting == "plan" else None):
                    outputs = specialization.run(*device.tree(tensors, real=True), *state)
                wanted = reference.run(*tensors, *expected.values())
                for a, b in zip(outputs, wanted, strict=True):
                    assert_alike("output", device.real(a), b)
                for state_name, tensor in held.items():
                    assert_alike(state_name, tensor, expected[state_name])
    apart = setting == "dbcache" and name != "flux"  # there the hit is not started before the decision
    assert len(graphs) == (3 if apart else 2)  # the front, the miss, the hit; or the step as a hit, the miss
    assert held["log_0"][0].tolist()[: len(steps)] == [0.0] * (len(steps) - 1) + [1.0]


def times_of(inputs: dict[str, Any]) -> list[float]:
    falling = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    return falling if inputs["timestep"].is_floating_point() else [1000 * t for t in falling]


def assert_alike(name: str, found: Tensor | None, wanted: Tensor) -> None:
    """NaN in the same places; counts and decisions equal; other numbers to the last bits of float32."""
    assert found is not None and found.dtype == wanted.dtype and found.shape == wanted.shape, name
    if name.startswith("log") and found.dim() == 2:  # decisions, and what they were taken from
        assert_alike(f"{name}[0]", found[0], wanted[0])
        found, wanted = found[1], wanted[1]
    if name.startswith("clock"):  # counts, and a sum of diffs
        assert_alike(f"diffs of {name}", found[LIVE, ACCUMULATED], wanted[LIVE, ACCUMULATED])
        found, wanted = found.clone(), wanted.clone()
        found[LIVE, ACCUMULATED] = wanted[LIVE, ACCUMULATED] = 0
    assert torch.equal(found.isnan(), wanted.isnan()), name
    found, wanted = found.nan_to_num(), wanted.nan_to_num()
    if name.startswith(EXACT):
        assert torch.equal(found, wanted), name
    else:
        error = ((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6)).item()
        assert error < 2e-5, f"{name}: {error}"
