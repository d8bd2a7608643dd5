"""A hit and a miss write the sizes of what they give alike, where a miss computes them from the picture's.

What branches give `torch.cond` in two ways (`h // 2 * 2`, and a size of the state) has an unknown size there,
and AOTInductor wrote code with names that it never declared: of SD3 and Wan no plan could be exported.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache import CacheConfig
from tests.behaviour.faults.base import Block, build
from tests.sweep import sweep

STEPS = 6
PLAN = fxcache.plan(steps=STEPS, speedup=2.0)
SETTINGS = {
    "output": CacheConfig.from_plans(PLAN),
    "hidden_states": CacheConfig.from_plans(dataclasses.replace(PLAN, level="hidden_states")),
}


class Patches(nn.Module):
    """Takes a picture apart into tokens of 2 x 2 pixels, and puts it together again."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, image: Tensor, timestep: Tensor) -> Tensor:
        rows, columns = image.shape[-2] // 2, image.shape[-1] // 2
        tokens = image.reshape(-1, 2, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        pixels = tokens.reshape(-1, rows, columns, 2, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return pixels.reshape(-1, 2, 2 * rows, 2 * columns) * (1 + timestep[:, None, None, None])


def _steps(rows: int, columns: int, batch: int) -> list[tuple[Tensor, Tensor]]:
    start = torch.linspace(-1, 1, batch * 2 * rows * columns).reshape(batch, 2, rows, columns)
    return [(start * (1 + 0.01 * i), torch.full((batch,), 1 - i / STEPS)) for i in range(STEPS)]


def _equal_at_several_sizes(found: nn.Module, model: nn.Module, config: CacheConfig) -> None:
    for size in ((6, 8, 2), (10, 4, 3)):
        wanted = fxcache.transform(model, config)
        with torch.no_grad():
            for step in _steps(*size):
                torch.testing.assert_close(found(*step), wanted(*step), rtol=1e-5, atol=1e-5)
        assert found.stats()["default"].cached_steps == wanted.stats()["default"].cached_steps != []


@pytest.mark.parametrize("setting", sweep(SETTINGS, ["output"]))
def test_a_package_for_all_sizes(setting: str, tmp_path: Path) -> None:
    model = build(Patches)
    image, timestep = _steps(6, 8, 2)[0]
    cached = fxcache.transform(model, SETTINGS[setting])
    path = fxcache.export(cached, tmp_path / "patches.pt2", {"image": image, "timestep": timestep})
    _equal_at_several_sizes(fxcache.load(path), model, SETTINGS[setting])


def test_one_graph_for_all_sizes() -> None:
    model, config = build(Patches), SETTINGS["output"]
    compiled = fxcache.compile(fxcache.transform(model, config), mode="single", dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        _equal_at_several_sizes(compiled, model, config)
