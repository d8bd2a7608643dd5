"""`scope="list"`: a decision and a state for each block list."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fxcache
from fxcache import CacheConfig
from tests.behaviour.zoo import find
from tests.toy import ToyBlock, latents, timesteps

FLUX = find("FluxTransformer2DModel")


def test_each_list_has_its_own_segment_and_nothing_cached_is_bitwise_equal() -> None:
    model, _ = FLUX.build()
    cached = fxcache.transform(model, "F1B1_W2M0MC0_T0O1_R0", scope="list")
    for seed in range(3):
        fresh = {**FLUX.fresh_inputs(seed), "return_dict": False}
        with torch.no_grad():
            assert torch.equal(cached(**fresh)[0], model(**fresh)[0])
    segments = cached._specializations.all()[0].program.segments
    assert [s.blocks[0].module_list for s in segments] == ["transformer_blocks", "single_transformer_blocks"]


def test_a_hit_in_every_list_replays_both_middles() -> None:
    model, inputs = FLUX.build()
    config = CacheConfig(fn_compute_blocks=1, max_warmup_steps=1, residual_diff_threshold=1e6)
    cached = fxcache.transform(model, config, scope="list")
    calls: list[str] = []
    for name, module in model.named_modules():
        if name.count(".") == 1 and "transformer_blocks." in name:
            module.register_forward_pre_hook(lambda m, a, n=name: calls.append(n))
    inputs = {**inputs, "return_dict": False}
    with torch.no_grad():
        for t in (0.9, 0.8):
            calls.clear()
            out = cached(**{**inputs, "timestep": torch.full((2,), t)})[0]
    assert calls == ["transformer_blocks.0", "single_transformer_blocks.0"]
    assert torch.isfinite(out).all()
    stats = cached.stats()["default"]
    assert stats.hits == (False, True)
    assert [s.hits for s in stats.segments] == [(False, True), (False, True)]


class TakingTurns(nn.Module):
    """Two lists, as Latte has: a block of one, then a block of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.ModuleList(ToyBlock(8) for _ in range(3))
        self.temporal = nn.ModuleList(ToyBlock(8) for _ in range(3))

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        temb = timestep.reshape(-1, 1, 1)
        for spatial, temporal in zip(self.spatial, self.temporal, strict=True):
            hidden_states = temporal(spatial(hidden_states, temb), temb + 1)
        return hidden_states


def test_lists_that_take_turns_stay_together() -> None:
    inputs = {"hidden_states": torch.randn(1, 5, 8), "timestep": torch.ones(1)}
    model = TakingTurns().requires_grad_(False)
    cached = fxcache.transform(model, "F2B0_W2M0MC0_T0O1_R0", scope="list", example_inputs=inputs)
    (segment,) = cached._specializations.all()[0].program.segments
    assert len(segment.blocks) == 6


def test_timesteps_are_enough_to_tell_trajectories_apart_in_every_segment() -> None:
    model, inputs = FLUX.build()
    config = CacheConfig(fn_compute_blocks=1, max_warmup_steps=1, residual_diff_threshold=1e6)
    cached = fxcache.transform(model, config, scope="list")
    with torch.no_grad():
        for _ in range(2):
            for t in timesteps(3, batch=2):
                cached(**{**inputs, "timestep": t / 1000, "return_dict": False})
    assert all(s.hits == (False, True, True) for s in cached.stats()["default"].segments)
    assert latents(1, 0)[0].shape == (1, 5, 8)
