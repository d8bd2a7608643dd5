"""Apple's MPS has no float64, and TensorRT none: neither state nor what a step does may need it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fxcache
from fxcache import CacheConfig, Plan, Spectrum, TaylorSeer
from tests.policies.test_everywhere import CONFIGS as POLICIES
from tests.toy import latents, timesteps, toy

STEPS = 10
SETTINGS: dict[str, CacheConfig | Plan] = {
    **POLICIES,
    "dbcache": CacheConfig.from_string("F1B1_W2M4MC2_T1O2_R1000_I2_A5"),
    "by timestep": CacheConfig(
        fn_compute_blocks=1,
        residual_diff_threshold=1000.0,
        max_warmup_steps=3,
        forecaster=TaylorSeer(order=2, distance="timestep"),
        feedback=True,
    ),
    "spectrum": CacheConfig(
        fn_compute_blocks=1, residual_diff_threshold=1000.0, max_warmup_steps=3, forecaster=Spectrum()
    ),
    "plan": fxcache.plan(steps=STEPS, speedup=2),
}


class Doubles(TorchDispatchMode):
    """Notes the operators that return float64."""

    def __init__(self) -> None:
        super().__init__()
        self.found = set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.dtype in (torch.float64, torch.complex128):
                self.found.add(str(func))
        return result


@contextmanager
def doubles() -> Iterator[set[str]]:
    with Doubles() as mode:
        yield mode.found


def test_doubles_are_seen() -> None:
    with doubles() as found:
        torch.ones(2, dtype=torch.float64) + 1
    assert "aten.add.Tensor" in found


@pytest.mark.parametrize("name", SETTINGS)
def test_no_step_makes_a_double(name: str) -> None:
    cached = fxcache.transform(toy(), SETTINGS[name])
    runs = [list(zip(latents(STEPS, seed), timesteps(STEPS), strict=True)) for seed in range(2)]
    (specialization, _) = cached.specialization_for(
        {"hidden_states": runs[0][0][0], "timestep": runs[0][0][1]}
    )
    assert {t.dtype for t in specialization.program.state} <= {torch.float32}
    with torch.no_grad(), doubles() as found:
        for run in runs:
            for sample, time in run:
                cached(hidden_states=sample, timestep=time)
    assert found == set()
    assert cached.stats()["default"].cached_steps
