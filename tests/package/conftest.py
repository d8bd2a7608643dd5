"""Packages that the tests share: to compile one takes long."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import fxcache
from fxcache import CachedTransformer
from tests.toy import latents, toy

SETTING = "F1B1_W3M0MC2_T1O1_R1000"


@pytest.fixture(scope="session")
def toy_model() -> CachedTransformer:
    return fxcache.transform(toy(), SETTING)


@pytest.fixture(scope="session")
def toy_package(toy_model: CachedTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("package") / "toy.pt2"
    example = {"hidden_states": latents(1, 0, batch=2)[0], "timestep": torch.ones(2)}
    return fxcache.export(toy_model, path, example)
