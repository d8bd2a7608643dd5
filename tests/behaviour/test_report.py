"""What the user reads: statistics, explanation, printed graph."""

from __future__ import annotations

import pytest
import torch

import fxcache
from fxcache.errors import NotCapturedError
from tests.behaviour.zoo import find
from tests.toy import latents, timesteps, toy

WIDTH, TOKENS = 8, 5
LINEAR = 2 * TOKENS * WIDTH * WIDTH  # FLOPs of one of the toy's layers


def test_stats_count_steps_diffs_flops_and_bytes() -> None:
    cached = fxcache.transform(toy(), "F1B0_W2M0MC0_T0O1_R1000")
    with torch.no_grad():
        for x, t in zip(latents(6, 0), timesteps(6), strict=True):
            cached(x, t)
    stats = cached.stats()["default"]
    assert stats.steps == 6
    assert stats.hits == (False, False, True, True, True, True)
    assert stats.cached_steps == (2, 3, 4, 5)
    assert set(stats.residual_diffs) == {2, 3, 4, 5}
    assert stats.flops_saved == 4 * 3 * LINEAR
    assert stats.flops_done == 6 * 6 * LINEAR - 4 * 3 * LINEAR
    assert stats.state_bytes == sum(
        t.numel() * t.element_size() for t in cached._contexts.last_state().state.values()
    )
    text = str(cached.stats())
    assert "2-5" in text and "4 (67%)" in text
    diffs = sorted(stats.residual_diffs.values())
    assert stats.diff_quantiles[50] == pytest.approx((diffs[1] + diffs[2]) / 2)
    assert list(stats.diff_quantiles) == [25, 50, 75, 90] and diffs[2] < stats.diff_quantiles[90] < diffs[3]
    assert f"default: diffs P25 {stats.diff_quantiles[25]:.4f}" in text


def test_no_cache_is_reported_as_such() -> None:
    cached = fxcache.transform(toy(), "C0_Q0_NONE")
    x, t = latents(1, 0)[0], timesteps(1)[0]
    with torch.no_grad():
        assert torch.equal(cached(x, t), toy()(x, t))
    assert cached.stats()["default"].hits == (False,)
    assert cached.stats()["default"].diff_quantiles == {}


def test_explain_names_what_was_found() -> None:
    model, inputs = find("FluxTransformer2DModel").build()
    found = fxcache.explain(model, "F2B1_W8M0MC3_T1O1_R0.12", inputs)
    assert found.blocks == 8
    assert found.streams == ("encoder_hidden_states", "hidden_states")
    assert found.primary_stream == "hidden_states"
    assert found.segments[0].blocks[0] == "transformer_blocks.0"
    assert found.flops_cached is not None and found.flops_computed is not None
    assert found.flops_cached < found.flops_computed / 2
    text = str(found)
    for words in ("transformer_blocks x4", "before transformer_blocks.2", "'timestep' turns back", "MiB"):
        assert words in text


def test_explain_works_on_the_meta_device() -> None:
    model, inputs = find("SD3Transformer2DModel").build()
    real = fxcache.explain(model, "F1B0_W8M0MC3_T1O1_R0.12", inputs)
    meta = fxcache.explain(
        model.to("meta"),
        "F1B0_W8M0MC3_T1O1_R0.12",
        {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in inputs.items()},
    )
    assert (meta.flops_computed, meta.flops_cached) == (real.flops_computed, real.flops_cached)
    assert meta.state_bytes == real.state_bytes


def test_the_graph_is_there_after_the_first_call() -> None:
    cached = fxcache.transform(toy(), "F1B0_W2M0MC0_T0O1_R0.1")
    with pytest.raises(NotCapturedError):
        _ = cached.graph
    with torch.no_grad():
        cached(latents(1, 0)[0], timesteps(1)[0])
    text = str(cached.graph)
    assert "cache_check(" in text and "if hit_0:" in text
    assert cached.graph.module.graph.find_nodes(op="call_module")


def test_printing_long_runs() -> None:
    from fxcache.runtime.stats import ranges

    assert ranges((4, 5, 6, 9)) == "4-6 9"
    assert ranges(()) == ""
