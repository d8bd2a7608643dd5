"""Packages that the tests share: to compile one takes long."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fxcache
from fxcache import CachedTransformer, Plan
from tests.toy import latents, toy

SETTING = "F1B1_W3M0MC2_T1O1_R1000"


EXAMPLE = {"hidden_states": latents(1, 0, batch=2)[0], "timestep": torch.ones(2)}
PLAN = Plan(steps=3, computed=(0, 1), weights=((1, 0, 0), (1, 0, 0), (0, 1, 0)), timesteps=(3, 2, 1))


@pytest.fixture(scope="session")
def toy_model() -> CachedTransformer:
    """Made with other settings than those in force."""
    cached = fxcache.transform(toy(), "F1B1_W5M4MC0_T1O1_R0.1_I7")
    cached.configure(SETTING)
    return cached


@pytest.fixture(scope="session")
def toy_package(toy_model: CachedTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "toy.pt2"
    return fxcache.export(toy_model, path, EXAMPLE)


@pytest.fixture(scope="session")
def planned_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy that follows plans whose steps are sums of up to three values."""
    path = tmp_path_factory.mktemp("package") / "planned.pt2"
    return fxcache.export(fxcache.transform(toy(), PLAN), path, EXAMPLE)
