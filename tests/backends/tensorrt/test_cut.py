"""Cutting stages for TensorRT, checked in PyTorch: needs neither torch-tensorrt nor a GPU."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import fxcache
from fxcache.backends.tensorrt import Lowered, TensorRTOptions, compile_tensorrt, engine_report, refit
from fxcache.backends.tensorrt.compiling import captured_shapes, prepare_all
from fxcache.backends.tensorrt.normalize import is_number, normalize
from fxcache.backends.tensorrt.runner import HostRunner, StageRunner
from fxcache.backends.tensorrt.shape_ranges import sizes_of, specs_of
from fxcache.backends.tensorrt.split_side_effects import split_side_effects
from fxcache.errors import (
    BackendError,
    EngineRangeError,
    FixedWeightsError,
    PrecisionError,
    TensorRTDeviceError,
    TensorRTMissingError,
)
from fxcache.runtime.cached_transformer import CachedTransformer
from tests.backends.tensorrt.models import Scaled, build, program
from tests.policies.test_everywhere import CONFIGS as POLICIES
from tests.sweep import sweep
from tests.toy import ToyDiT, latents, timesteps, toy

ORDER_TWO = "F1B1_W2M0MC2_T1O2_R0.5"
EAGER = Lowered(TensorRTOptions(), eager=True)


def _steps(inputs: dict[str, Any], latent: str, count: int) -> list[dict[str, Any]]:
    first = inputs[latent]
    drift = torch.linspace(0, 0.1, count)
    time = torch.linspace(0.9, 0.1, count)
    scale = 1 if inputs["timestep"].is_floating_point() else 900
    return [
        {**inputs, latent: first + d, "timestep": torch.full_like(inputs["timestep"], float(t * scale))}
        for d, t in zip(drift, time, strict=True)
    ]


def _first(output: Any) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    return output[0] if isinstance(output, tuple) else output.sample


def test_a_plan_is_followed_by_stages() -> None:
    """Nothing of the model is in the stage of a hit; its few sums need no engine."""
    cached = fxcache.transform(toy(), fxcache.plan(steps=6, speedup=2))
    cut = cached.lowered(EAGER)
    with torch.no_grad():
        for x, t in zip(latents(6, 0), timesteps(6), strict=True):
            torch.testing.assert_close(cut(x, t), cached(x, t))
    assert cut.stats()["default"].cached_steps == cached.stats()["default"].cached_steps != ()


@pytest.mark.parametrize(
    ("name", "scope"),
    sweep(
        [(name, "model") for name in ("toy", "pixart", "flux", "wan")] + [("flux", "list")],
        [("toy", "model")],
    ),
)
def test_a_trajectory_of_cut_stages_is_that_of_the_graph(name: str, scope: str) -> None:
    model, inputs = build(name, torch.float32)
    plain = fxcache.transform(model, ORDER_TWO, scope=scope)
    cut = plain.lowered(EAGER)
    for step in _steps(inputs, "hidden_states", 7):
        torch.testing.assert_close(_first(cut(**step)), _first(plain(**step)), rtol=1e-4, atol=1e-5)
    ours, theirs = cut.stats()["default"], plain.stats()["default"]
    assert [s.hits for s in ours.segments] == [s.hits for s in theirs.segments]
    assert any(any(s.hits) for s in ours.segments)


@pytest.mark.parametrize("name", sweep(POLICIES, ("forecast error",)))
def test_what_a_policy_decides_is_decided_beside_engines(name: str) -> None:
    plain = fxcache.transform(toy().requires_grad_(False), POLICIES[name])
    cut = plain.lowered(EAGER)
    for sample, time in zip(latents(10, 0), timesteps(10), strict=True):
        torch.testing.assert_close(cut(sample, time), plain(sample, time), rtol=1e-4, atol=1e-5)
    assert cut.stats()["default"].hits == plain.stats()["default"].hits
    assert plain.stats()["default"].cached_steps
    found = plain.specialization_for({"hidden_states": sample, "timestep": time})[0].program
    for stage in prepare_all(found, captured_shapes(found), TensorRTOptions())[1]:
        if stage.engine is not None:
            assert not [n for n in stage.engine.inputs if re.fullmatch(r"(clock|log|knobs|policy)_\d+", n)]


def test_engines_take_and_give_no_float64() -> None:
    found = program("pixart", torch.float32)
    _, stages = prepare_all(found, captured_shapes(found), TensorRTOptions())
    assert [s.name for s in stages] == ["front", "skip", "compute", "back"]
    for stage in stages:
        assert stage.engine is not None
        for node in stage.engine.graph.graph.nodes:
            if isinstance(node.meta.get("val"), torch.Tensor) and not is_number(node):
                assert node.meta["val"].dtype != torch.float64, (stage.name, node)
    beside = {s.name: {p.place for p in s.pieces} - {"engine"} for s in stages}
    assert beside["compute"] == beside["skip"] == {"before", "effects"}
    assert beside["back"] == set()


def test_strides_that_change_nothing_do_not_reach_the_engine() -> None:
    """The converter of `as_strided` takes no open sizes."""
    inputs = {"hidden_states": torch.ones(2, 5, 8), "timestep": torch.ones(2)}
    found = fxcache.transform(ToyDiT().requires_grad_(False), ORDER_TWO).specialization_for(inputs)[0].program
    options = TensorRTOptions(dynamic={"hidden_states": {1: (4, 6)}})
    for stage in prepare_all(found, captured_shapes(found), options)[1]:
        assert stage.engine is not None and "as_strided.default" not in stage.engine.operators


class Interleaved(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.zeros_like(x)
        y[..., ::2] = x[..., 1::2]
        return y


def test_a_scatter_ends_where_the_tensor_does() -> None:
    x = torch.randn(2, 8)
    graph = torch.export.export(Interleaved(), (x,)).run_decompositions({}).module()
    normalize(graph)
    scatters = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.slice_scatter.default)
    assert [node.args[4] for node in scatters] == [8]
    assert torch.equal(graph(x), Interleaved()(x))


def test_effects_keep_their_order_and_leave_a_pure_stage() -> None:
    stage = program("flux", torch.float32).stages["compute"]
    pure = split_side_effects(stage)
    assert pure.effects is not None
    names = [n.target.__name__ for n in pure.effects.graph.nodes if n.op == "call_function"]
    assert names[-2:] == ["log_step", "commit_miss"] and set(names[:-2]) == {"remember", "store"}
    assert all(n.users for n in pure.graph.graph.nodes if n.op == "call_function")


def test_tied_sizes_move_together() -> None:
    found = program("flux", torch.float32)
    usual = captured_shapes(found)
    asked = sizes_of(found, usual, {"hidden_states": {1: (16, 64)}})
    ids = found.capture.inputs.index("img_ids")
    assert (asked.low[ids][0], asked.high[ids][0]) == (16, 64)
    wide = sizes_of(found, usual, True)
    assert wide.low < usual < wide.high
    assert asked.hold(usual) and not asked.hold(wide.high)


@pytest.mark.parametrize(
    ("dynamic", "reason"),
    [
        ({"latents": {0: (1, 2)}}, "tensor inputs are"),
        ({"hidden_states": {2: (8, 16)}}, "one size only"),
        ({"hidden_states": {1: (64, 128)}}, "usual size"),
        ({"hidden_states": {0: (1, 4)}}, "cannot be called"),
    ],
)
def test_ranges_that_cannot_be_are_refused(dynamic: Any, reason: str) -> None:
    found = program("flux", torch.float32)
    with pytest.raises(EngineRangeError, match=reason):
        sizes_of(found, captured_shapes(found), dynamic)


def test_a_call_outside_the_range_asked_for_is_refused() -> None:
    model = ToyDiT().requires_grad_(False)
    options = TensorRTOptions(dynamic={"hidden_states": {1: (4, 6)}})
    cut = fxcache.transform(model, ORDER_TWO).lowered(Lowered(options, eager=True))
    for tokens in (5, 4, 6):
        inputs = {"hidden_states": torch.ones(2, tokens, 8), "timestep": torch.ones(2)}
        torch.testing.assert_close(cut(**inputs), model(**inputs))
    with pytest.raises(EngineRangeError, match="outside the range"):
        cut(hidden_states=torch.ones(2, 7, 8), timestep=torch.ones(2))


def test_other_sizes_get_engines_of_their_own_unless_a_range_was_asked_for() -> None:
    model = ToyDiT().requires_grad_(False)
    cut = fxcache.transform(model, ORDER_TWO).lowered(EAGER)
    for tokens in (5, 7, 5):
        inputs = {"hidden_states": torch.ones(2, tokens, 8), "timestep": torch.ones(2)}
        torch.testing.assert_close(cut(**inputs), model(**inputs))
    (specialization,) = cut._specializations.all()
    assert isinstance(specialization.run, HostRunner) and len(specialization.run.sets) == 2


def test_what_is_missing_is_named() -> None:
    model, _ = build("flux", torch.float32)
    cached = fxcache.transform(model, ORDER_TWO)
    with pytest.raises((TensorRTMissingError, TensorRTDeviceError)) as caught:
        fxcache.compile(cached, backend="tensorrt")
    if isinstance(caught.value, TensorRTMissingError):
        assert "fxcache[tensorrt]" in str(caught.value) and "fxcache[tensorrt-rtx]" in str(caught.value)
    with pytest.raises(PrecisionError, match="fp32, fp16, bf16"):
        compile_tensorrt(cached, precision="int8")  # type: ignore[arg-type]
    with pytest.raises(PrecisionError, match="convert it first"):
        TensorRTOptions(precision="fp32").cast_to(torch.bfloat16)


def test_what_the_forward_sets_on_its_blocks_is_in_the_stages() -> None:
    model = Scaled().requires_grad_(False)
    cut = fxcache.transform(model, ORDER_TWO).lowered(EAGER)
    inputs = {"hidden_states": torch.ones(2, 5, 8), "timestep": torch.ones(2)}
    torch.testing.assert_close(cut(**inputs), model(**inputs))
    assert engine_report(cut) == ((),)  # one set of stages, and no engine
    with pytest.raises(FixedWeightsError, match="refit=True"):
        refit(cut)


def test_only_what_this_backend_compiled_has_engines() -> None:
    cached = fxcache.transform(ToyDiT().requires_grad_(False), ORDER_TWO)
    for ask in (engine_report, refit):
        with pytest.raises(BackendError, match="tensorrt"):
            ask(cached)


def test_effects_write_to_state_that_is_not_contiguous() -> None:
    """The engine may take a copy of such a tensor; what is written must reach the tensor itself."""
    inputs = {"hidden_states": torch.ones(2, 5, 8), "timestep": torch.ones(2)}
    cached = fxcache.transform(ToyDiT().requires_grad_(False), ORDER_TWO)
    specialization, call = cached.specialization_for(inputs)
    shapes = captured_shapes(specialization.program)
    _, stages = prepare_all(specialization.program, shapes, TensorRTOptions())
    (compute,) = [s for s in stages if s.name == "compute"]
    specs = specs_of(specialization.program, sizes_of(specialization.program, shapes, False))
    values = {name: spec.example() for name, spec in specs.items()}
    clock = specialization.allocate(call, cached.cache_config)["clock_0"]
    values["clock_0"] = clock.t().contiguous().t()
    assert not values["clock_0"].is_contiguous()
    StageRunner(compute, None)(values)
    assert not torch.equal(values["clock_0"], clock)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_benchmark_without_a_gpu_says_so_and_hides_no_package() -> None:
    """Its file is named like TensorRT's package, which torch-tensorrt imports by name."""
    root = Path(__file__).parents[3]
    look = (
        "import sys, importlib.util as u; from bench.tensorrt import main; code = main(); "
        "found = u.find_spec('tensorrt'); assert found is None or 'bench' not in found.origin, found; "
        "sys.exit(code)"
    )
    run = subprocess.run([sys.executable, "-c", look], cwd=root, capture_output=True, text=True)
    assert run.returncode == 2, run.stderr
    missing = "NVIDIA GPU" if find_spec("torch_tensorrt") else "needs torch-tensorrt"
    assert "cannot run here" in run.stderr and missing in run.stderr


@pytest.mark.full
def test_the_benchmark_compares_what_it_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its own steps, with the engines' pieces run in PyTorch: only a GPU runs it whole."""
    bench: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[3] / "bench" / "tensorrt.py"))
    asked: list[dict[str, Any]] = []

    def compile_(cached: CachedTransformer, **options: Any) -> CachedTransformer:
        asked.append(options)
        return cached.lowered(EAGER)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(fxcache, "compile", compile_)
    model, inputs = bench["_model"](None, torch.float32)
    cached = fxcache.transform(model.requires_grad_(False), "F1B0_W2M0MC3_T1O1_R0.5")
    rows = bench["_compare"](cached, inputs, 4, tmp_path)
    assert [row.backend for row in rows][:2] == ["eager", "inductor"] and len(rows) == 4
    assert all(row.error < 1e-4 and row.same_hits for row in rows)
    assert [o.get("backend") for o in asked] == [None, "tensorrt", "tensorrt"]
    monkeypatch.setitem(bench["_refit"].__globals__, "refit", lambda compiled: None)
    refitted, stale = bench["_refit"](cached, inputs, 4)
    assert refitted < 1e-4 and stale > max(bench["TOLERANCE"].values())
