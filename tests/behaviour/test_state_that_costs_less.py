"""Histories of another dtype and in host memory, and a front residual of fewer tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import fxcache
from fxcache import CacheConfig, EasyCache, TaylorSeer
from fxcache.errors import ConfigError, GraphSettingError
from fxcache.ops.history import every_nth, remember, wide_sum
from tests.sweep import sweep
from tests.toy import latents, timesteps, toy

STEPS = 10
MIDDLE = CacheConfig.from_string("F1B1_W3M0MC2_T1O1_R1000")
OUTPUT = CacheConfig.from_string("2x")
PLAN = CacheConfig.from_string("P10K5")
LEARNS = CacheConfig(
    fn_compute_blocks=0,
    level="output",
    policy=EasyCache(),
    max_warmup_steps=3,
    residual_diff_threshold=1.0,
    forecaster=TaylorSeer(),
)
# And how near to the model's own. A line through two values makes their errors up to ten times as large.
DTYPES = {"float32": 0.0, "float16": 5e-3, "bfloat16": 4e-2, "float8": 4e-1}


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def run(model: Any, seed: int = 0) -> list[Tensor]:
    return [model(x, t) for x, t in zip(latents(STEPS, seed, 2), timesteps(STEPS, 2), strict=True)]


def size_of(config: CacheConfig) -> dict[str, int]:
    cached = fxcache.transform(toy(), config)
    run(cached)
    program = cached.graph.program
    symbols = program.capture.shapes.bind([(2, 5, 8), (2,)]) or {}
    return {tensor.name: tensor.bytes(symbols) for tensor in program.state}


KINDS = {"middle": MIDDLE, "output": OUTPUT, "plan": PLAN, "learns": LEARNS}


# What EasyCache learns of outputs in float8 is too coarse for the same decisions.
@pytest.mark.parametrize(
    ("kind", "dtype"), [(k, d) for k in KINDS for d in DTYPES if (k, d) != ("learns", "float8")]
)
def test_another_dtype_is_as_near_as_it_is_fine(kind: str, dtype: Any) -> None:
    config = KINDS[kind]
    own, other = (fxcache.transform(toy(), c) for c in (config, config.replace(history_dtype=dtype)))
    for a, b, hit in zip(run(own), run(other), own.stats()["default"].hits, strict=True):
        assert b.dtype == a.dtype
        error = (a - b).norm() / a.norm()
        assert error <= DTYPES[dtype] and (error > 0 or not hit or dtype == "float32")
    assert own.stats()["default"].hits == other.stats()["default"].hits
    assert any(own.stats()["default"].hits)


def test_it_takes_less_memory() -> None:
    own, half, quarter = (
        size_of(MIDDLE.replace(history_dtype=dtype)) for dtype in ("model", "bfloat16", "float8")
    )
    (name,) = (n for n in own if n.endswith("_history"))
    assert own[name] == 2 * half[name] == 4 * quarter[name]
    strided = size_of(MIDDLE.replace(signal_stride=5))
    assert strided["previous_0"] * 5 == own["previous_0"]


@pytest.mark.parametrize("config", [MIDDLE, OUTPUT], ids=["middle", "output"])
def test_offloaded_is_the_same(config: CacheConfig) -> None:
    """On the CPU both lie in one memory; that the state is asked for there is all that can be seen."""
    own, other = (fxcache.transform(toy(), c) for c in (config, config.replace(history_offload=True)))
    assert all(map(torch.equal, run(own), run(other)))
    found = [s for s in other.graph.program.state if s.name.endswith("_history")]
    assert found and all(s.device.type == "cpu" for s in found)


def test_the_diff_is_that_of_the_tokens_that_are_kept() -> None:
    cached, model = fxcache.transform(toy(), MIDDLE.replace(signal_stride=2)), toy()
    run(cached)
    fronts = []
    for x, t in zip(latents(STEPS, 0, 2), timesteps(STEPS, 2), strict=True):
        entry = model.embed(x)
        fronts.append((model.blocks[0](entry, torch.sin(t).reshape(-1, 1, 1)) - entry)[:, ::2])
    wanted = ((fronts[3] - fronts[2]).abs().mean() / fronts[2].abs().mean()).item()
    assert cached.stats()["default"].residual_diffs[3] == pytest.approx(wanted, rel=1e-5)


@given(
    values=st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=6),
    dtype=st.sampled_from((torch.float8_e4m3fn, torch.bfloat16, torch.float16)),
)
def test_a_ring_of_any_dtype_rounds_each_value_once(values: list[float], dtype: torch.dtype) -> None:
    history = torch.zeros(3, 1, dtype=dtype)
    for count, value in enumerate(values):
        remember(history, torch.tensor([value]), torch.tensor(count))
    kept = torch.tensor(values[-3:]).to(dtype).float()
    assert torch.equal(history.float().sort(0).values.flatten(), kept.sort().values)
    total = wide_sum(history, torch.ones(3)).item()
    assert total == pytest.approx(kept.sum().item(), rel=1e-5, abs=1e-4)


def test_what_has_no_tokens_is_compared_whole() -> None:
    assert every_nth(torch.ones(3, 4), 2).shape == (3, 4)


@pytest.mark.parametrize("mode", sweep(("fused", "single", "staged"), ("fused",)))
def test_compiled_is_eager(mode: Any) -> None:
    config = MIDDLE.replace(history_dtype="bfloat16", signal_stride=2)
    eager = fxcache.transform(toy(), config)
    compiled = fxcache.compile(fxcache.transform(toy(), config), mode=mode)
    for a, b in zip(run(compiled), run(eager), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    torch._dynamo.reset()


@pytest.mark.full
@pytest.mark.parametrize("dtype", ("bfloat16", "float8"))
def test_packaged_is_eager(dtype: Any, tmp_path: Path) -> None:
    eager = fxcache.transform(toy(), MIDDLE.replace(history_dtype=dtype))
    example = {"hidden_states": latents(1, 0, batch=2)[0], "timestep": torch.ones(2)}
    package = fxcache.load(fxcache.export(eager, tmp_path / "toy.pt2", example))
    for a, b in zip(run(package), run(eager), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_they_are_part_of_the_graph_and_of_the_notation() -> None:
    config = MIDDLE.replace(history_dtype="float8", history_offload=True, signal_stride=4)
    assert CacheConfig.from_string(str(config)) == config and str(config).endswith("_Hfloat8_HO_G4")
    cached = fxcache.transform(toy(), MIDDLE)
    for change in ({"history_dtype": "float8"}, {"history_offload": True}, {"signal_stride": 2}):
        with pytest.raises(GraphSettingError, match=next(iter(change))):
            cached.configure(**change)
    planned = fxcache.transform(toy(), PLAN)
    with pytest.raises(GraphSettingError, match="history_dtype"):
        planned.configure(PLAN.replace(history_dtype="float8"))
    other = fxcache.transform(toy(), PLAN.replace(history_dtype="float8"))
    other.configure(CacheConfig.from_string("P10K6"))  # which says nothing of it
    assert other.cache_config.history_dtype == "float8"
    for field, value in (("history_dtype", "int8"), ("history_offload", 1), ("signal_stride", 0)):
        with pytest.raises(ConfigError, match=field):
            CacheConfig(**{field: value})  # type: ignore[arg-type]
