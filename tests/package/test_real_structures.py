"""The structures that users deploy, as packages with open sizes: a package does what the module does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache.api.load import load
from tests.behaviour.zoo import find
from tests.behaviour.zoo.case import Inputs, ZooCase

SHAPES = (
    "FluxTransformer2DModel",
    "SD3Transformer2DModel",
    "QwenImageTransformer2DModel",
    "WanTransformer3DModel",
    "PixArtTransformer2DModel",
    "HunyuanVideoTransformer3DModel",
)
STEPS = 8


def trajectory(case: ZooCase, inputs: Inputs) -> Iterator[dict[str, Any]]:
    (time,) = case.timestep_names
    for i in range(STEPS):
        t = inputs[time]
        t = torch.full_like(t, 0.9 - i / 10 if t.is_floating_point() else 900 - 10 * i)
        yield {**inputs, time: t, "return_dict": False}


def run(model: nn.Module, case: ZooCase, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        return [model(**call)[0] for call in trajectory(case, inputs)]


@pytest.mark.full
@pytest.mark.parametrize("name", SHAPES)
def test_a_package_equals_the_module(name: str, tmp_path: Path) -> None:
    case = find(name)
    model, inputs = case.build()
    cached = fxcache.transform(model, "F1B1_W2M0MC2_T1O1_R1000")
    path = fxcache.export(cached, tmp_path / "model.pt2", {**inputs, "return_dict": False})
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    assert path.stat().st_size <= 1.05 * weights + 5 * 2**20
    package = load(path)
    assert case.resize is not None
    kinds = [inputs, case.fresh_inputs(1)]
    resized = case.resize(inputs)
    specialization, _ = cached.specialization_for(next(trajectory(case, inputs)))
    if cached.specialization_for(next(trajectory(case, resized)))[0] is specialization:
        kinds.append(resized)  # else the model itself takes another path (PixArt's table of positions)
    for kind in kinds:
        for a, b in zip(run(package, case, kind), run(cached, case, kind), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        assert package.stats()["default"].hits == cached.stats()["default"].hits
    assert any(cached.stats()["default"].hits)
