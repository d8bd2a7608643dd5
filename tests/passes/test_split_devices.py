"""Blocks on several devices, as with `device_map="balanced"`: what meets is on one of them.

The passes run on fake tensors, which need no device: the graphs are made for two GPUs where there is none.
A fake number of another GPU is refused as a real one is. Without CUDA the two are devices "lazy", the only
ones that a CPU build of torch can count and slice fake tensors of.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxcache
from fxcache import CacheConfig, CachedTransformer, Plan
from fxcache.errors import ExportError, GraphSpecError
from fxcache.ir.stage_builder import StageBuilder
from fxcache.ops.placement import moved
from tests.policies.test_everywhere import CONFIGS as POLICIES
from tests.toy import latents, timesteps

STEPS = 8
KIND = "lazy" if torch.version.cuda is None else "cuda"
FIRST, SECOND = f"{KIND}:0", f"{KIND}:1"
TWO = (FIRST, FIRST, SECOND, SECOND)
SETTINGS: dict[str, CacheConfig | Plan] = {
    **{name: POLICIES[name] for name in ("easycache", "forecast error", "budget")},
    "front on the first": CacheConfig.from_string("F1B1_W2M4MC2_T1O1_R1000"),
    "front on both": CacheConfig.from_string("F3B0_W2M4MC2_T1O1_R1000"),
    "feedback": CacheConfig(
        fn_compute_blocks=1, residual_diff_threshold=1000.0, forecaster=fxcache.TaylorSeer(), feedback=True
    ),
    "offloaded": CacheConfig(fn_compute_blocks=1, history_offload=True, forecaster=fxcache.TaylorSeer()),
    "plan": fxcache.plan(steps=STEPS, speedup=2),
}


class Placed(nn.Module):
    """A block that computes on `device`, as the hooks of accelerate let it. Its weights are made there."""

    def __init__(self, device: str, scale: float) -> None:
        super().__init__()
        self.device, self.scale = device, scale

    def forward(self, hidden_states: Tensor, temb: Tensor) -> Tensor:
        x = hidden_states.to(self.device)
        weight = self.scale * torch.ones(x.shape[-1], x.shape[-1], device=x.device).tril()
        return x + torch.tanh(F.linear(F.layer_norm(x, x.shape[-1:]), weight) + temb.to(x.device))


class Split(nn.Module):
    """A transformer whose sample is on the CPU, its blocks where they were told, its output on the last."""

    def __init__(self, devices: Sequence[str]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Placed(device, 0.1 + 0.05 * i) for i, device in enumerate(devices))
        self.home = devices[0]

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        temb = torch.sin(timestep).reshape(-1, 1, 1)
        moving = hidden_states.to(self.home)
        for block in self.blocks:
            moving = block(moving, temb)
        return moving


def split(devices: Sequence[str], setting: CacheConfig | Plan) -> CachedTransformer:
    return fxcache.transform(Split(devices).eval(), setting)


def prepared(devices: Sequence[str], setting: CacheConfig | Plan) -> CachedTransformer:
    cached = split(devices, setting)
    cached.prepare({"hidden_states": latents(1, 0)[0], "timestep": timesteps(1)[0]})
    return cached


def moves(cached: CachedTransformer) -> list[str]:
    """What is moved in each stage, and whereto."""
    return [
        f"{name}: {node.args[0]} to {node.args[1]}"
        for name, stage in cached.graph.program.stages.items()
        for node in stage.graph.graph.nodes
        if node.target is moved
    ]


@pytest.mark.parametrize("name", SETTINGS)
def test_blocks_on_two_devices_make_a_graph(name: str) -> None:
    cached = prepared(TWO, SETTINGS[name])
    state = {tensor.name: str(tensor.device) for tensor in cached.graph.program.state}
    numbers = {n for n in state if n.split("_")[0] in ("clock", "log", "knobs", "plan", "fits", "memory")}
    small = (
        SECOND if cached.cache_config.level == "output" else FIRST
    )  # where what is cached is, or the blocks
    assert {state[n] for n in numbers} == {small}
    histories = {state[n] for n in state if n.endswith("_history")}
    assert histories == {"cpu" if name == "offloaded" else SECOND}


@pytest.mark.parametrize("name", ["easycache", "front on both"])
def test_blocks_on_one_device_move_nothing(name: str) -> None:
    assert moves(prepared(["cpu"] * 4, SETTINGS[name])) == []


def test_only_what_meets_is_moved() -> None:
    assert moves(prepared(TWO, "F1B0_W2M4MC2_T1O1_R0.1")) == [  # type: ignore[arg-type]
        f"front: near to {FIRST}",
        f"skip: blocks_0 to {SECOND}",
        f"compute: blocks_0 to {SECOND}",
    ]


def test_a_graph_that_mixes_devices_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself: with nothing moved, fake tensors refuse one number of another GPU."""
    monkeypatch.setattr(StageBuilder, "on", lambda self, node, device: node)
    with pytest.raises(GraphSpecError, match="device"):
        prepared(TWO, SETTINGS["front on both"])


def test_a_package_of_several_devices_is_refused(tmp_path: Path) -> None:
    cached = prepared(TWO, "F1B0_W2M4MC2_T1O1_R0.1")  # type: ignore[arg-type]
    example = {"hidden_states": latents(1, 0)[0], "timestep": timesteps(1)[0]}
    with pytest.raises(ExportError, match=f"lies on {FIRST}, {SECOND}.*move it to one"):
        fxcache.export(cached, tmp_path / "split.pt2", example)


def run(cached: Any) -> list[Tensor]:
    with torch.no_grad():
        steps = zip(latents(STEPS, 0), timesteps(STEPS), strict=True)
        return [cached(hidden_states=sample, timestep=time) for sample, time in steps]


@pytest.mark.skipif(torch.accelerator.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("name", SETTINGS)
def test_blocks_on_two_gpus_compute_what_one_does(name: str) -> None:
    kind = torch.accelerator.current_accelerator()
    assert kind is not None
    one, two = f"{kind.type}:0", f"{kind.type}:1"
    apart, together = (split(d, SETTINGS[name]) for d in ((one, one, two, two), (one,) * 4))
    for found, expected in zip(run(apart), run(together), strict=True):
        torch.testing.assert_close(found, expected)
    assert apart.stats()["default"].cached_steps == together.stats()["default"].cached_steps
