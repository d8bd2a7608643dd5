"""Complex tensors in the branches of the single graph: constants, buffers of blocks, inputs.

TorchInductor failed ("auto_functionalized_v2 was not removed") where one was not made by the graph, as with
Qwen-Image's rotary tables under a plan, whose step begins within the branch.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache import CachedTransformer
from fxcache.errors import ExportError
from fxcache.torch_private import BRANCHES_MAY_WRITE
from tests.behaviour.faults.base import WIDTH, Base, build, sample

STEPS = 6
SETTINGS = {
    "dbcache": fxcache.CacheConfig.from_string("F1B0_W1M0MC2_T1O1_R1000"),
    "plan": fxcache.CacheConfig.from_plans(fxcache.plan(steps=STEPS, speedup=2.0)),
}


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Pairs of channels, as complex numbers, times others."""
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (WIDTH // 2, 2))) * turns).flatten(-2)


class TurningBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.register_buffer("turns", torch.polar(torch.ones(WIDTH // 2), torch.arange(WIDTH // 2) / 3))

    def forward(self, x: Tensor) -> Tensor:
        return x + turned(self.mix(x), self.turns)


class Turning(Base):
    """Turns by a table of its own, by an input, and in each block."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TurningBlock() for _ in range(3))
        self.table = torch.polar(torch.ones(WIDTH // 2), torch.arange(WIDTH // 2) / 5)

    def forward(self, x: Tensor, timestep: Tensor, turns: Tensor) -> Tensor:
        return turned(super().forward(turned(turned(x, self.table), turns), timestep), turns)


def _steps() -> list[tuple[Tensor, Tensor, Tensor]]:
    turns = torch.polar(torch.ones(WIDTH // 2), torch.arange(WIDTH // 2) / 7)
    return [(x, timestep, turns) for x, timestep in sample(STEPS)]


def _equal_to(wanted: CachedTransformer, found: nn.Module) -> None:
    with torch.no_grad():
        for step in _steps():
            torch.testing.assert_close(found(*step), wanted(*step), rtol=1e-5, atol=1e-5)
    hits = wanted.stats()["default"].cached_steps
    assert hits and found.stats()["default"].cached_steps == hits


@pytest.mark.parametrize(("setting", "dynamic"), [("dbcache", None), ("plan", None), ("plan", False)])
def test_they_compile_as_one_graph(setting: str, dynamic: bool | None) -> None:
    model = build(Turning)
    compiled = fxcache.compile(fxcache.transform(model, SETTINGS[setting]), mode="single", dynamic=dynamic)
    _equal_to(fxcache.transform(model, SETTINGS[setting]), compiled)


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_they_are_exported(setting: str, tmp_path: Path) -> None:
    model = build(Turning)
    x, timestep, turns = _steps()[0]
    cached = fxcache.transform(model, SETTINGS[setting])
    path, inputs = tmp_path / "turning.pt2", {"x": x, "timestep": timestep, "turns": turns}
    if setting == "plan" and not BRANCHES_MAY_WRITE:  # torch 2.11 fails to plan its memory
        with pytest.raises(ExportError, match=r"the compiler says.*torch 2\.12"):
            fxcache.export(cached, path, inputs)
        return
    fxcache.export(cached, path, inputs)
    _equal_to(fxcache.transform(model, SETTINGS[setting]), fxcache.load(path))
