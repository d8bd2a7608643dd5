"""A hit and a miss write the sizes of what they give alike, where a miss computes them from the input's.

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
from tests.behaviour.faults.base import WIDTH, Block, build
from tests.sweep import sweep

STEPS = 6
PLAN = fxcache.plan(steps=STEPS, speedup=2.0)
SETTINGS = {
    "output": CacheConfig.from_plans(PLAN),
    "hidden_states": CacheConfig.from_plans(dataclasses.replace(PLAN, level="hidden_states")),
}


class Pairs(nn.Module):
    """Takes a signal apart into tokens of two moments each, and puts it together again."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, signal: Tensor, timestep: Tensor) -> Tensor:
        pairs = signal.shape[-1] // 2
        tokens = signal.reshape(-1, WIDTH // 2, pairs, 2).transpose(1, 2).flatten(2)
        for block in self.blocks:
            tokens = block(tokens)
        moments = tokens.reshape(-1, pairs, WIDTH // 2, 2).transpose(1, 2)
        return moments.reshape(-1, WIDTH // 2, 2 * pairs) * (1 + timestep[:, None, None])


def _steps(moments: int, batch: int) -> list[tuple[Tensor, Tensor]]:
    start = torch.linspace(-1, 1, batch * WIDTH // 2 * moments).reshape(batch, WIDTH // 2, moments)
    return [(start * (1 + 0.01 * i), torch.full((batch,), 1 - i / STEPS)) for i in range(STEPS)]


def _equal_at_several_sizes(found: nn.Module, model: nn.Module, config: CacheConfig) -> None:
    for size in ((6, 2), (10, 3)):
        wanted = fxcache.transform(model, config)
        with torch.no_grad():
            for step in _steps(*size):
                torch.testing.assert_close(found(*step), wanted(*step), rtol=1e-5, atol=1e-5)
        assert found.stats()["default"].cached_steps == wanted.stats()["default"].cached_steps != []


@pytest.mark.parametrize("setting", sweep(SETTINGS, ["output"]))
def test_a_package_for_all_sizes(setting: str, tmp_path: Path) -> None:
    model = build(Pairs)
    signal, timestep = _steps(6, 2)[0]
    cached = fxcache.transform(model, SETTINGS[setting])
    path = fxcache.export(cached, tmp_path / "pairs.pt2", {"signal": signal, "timestep": timestep})
    _equal_at_several_sizes(fxcache.load(path), model, SETTINGS[setting])


def test_one_graph_for_all_sizes() -> None:
    model, config = build(Pairs), SETTINGS["output"]
    compiled = fxcache.compile(fxcache.transform(model, config), mode="single", dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        _equal_at_several_sizes(compiled, model, config)
