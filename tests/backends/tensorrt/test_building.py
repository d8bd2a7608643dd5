"""What compiling says and does while it builds: options, leftovers, weights held twice, the cache on disk.

Engines are built by TensorRT and never run. `require_gpu` is left out of the way where there is no GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache.backends.tensorrt import Lowered, TensorRTOptions, engine_report
from fxcache.backends.tensorrt.available import require_known, require_torch_tensorrt
from fxcache.backends.tensorrt.compiling import captured_shapes, prepare_all
from fxcache.backends.tensorrt.enginecache import engine_folder
from fxcache.backends.tensorrt.lowering import engines_in, lower_stage
from fxcache.backends.tensorrt.prepare import Prepared
from fxcache.backends.tensorrt.split_bookkeeping import in_double
from fxcache.errors import (
    BackendError,
    LeftoverOperatorsError,
    LeftoverOperatorsWarning,
    RepeatedWeightsWarning,
)
from fxcache.runtime.cached_transformer import CachedTransformer
from tests.backends.tensorrt.models import STAGES, Odd
from tests.toy import ToyDiT, toy

pytestmark = [pytest.mark.tensorrt, pytest.mark.filterwarnings("default")]
CONFIG = "F1B1_W1M0MC2_T1O1_R0.9"
LEFT = {"special_bessel_j0.default", "_to_copy.default", "sum.dim_IntList"}


def _inputs(tokens: int = 5) -> dict[str, torch.Tensor]:
    return {"hidden_states": torch.ones(2, tokens, 8), "timestep": torch.ones(2)}


def _build(model: nn.Module, options: TensorRTOptions, tokens: tuple[int, ...] = (5,)) -> CachedTransformer:
    """Build the engines for calls of these numbers of tokens, and run none."""
    compiled = fxcache.transform(model.requires_grad_(False), CONFIG).lowered(Lowered(options))
    for count in tokens:
        specialization, call = compiled.specialization_for(_inputs(count))
        specialization.run.set_for([tuple(t.shape) for t in call.tensors])  # type: ignore[attr-defined]
    return compiled


@pytest.fixture
def no_gpu_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxcache.backends.tensorrt.compiling.require_gpu", lambda tensors: None)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What torch-tensorrt is asked to compile, and how."""
    import torch_tensorrt

    found: list[dict[str, Any]] = []
    real = torch_tensorrt.dynamo.compile

    def watched(exported: Any, **settings: Any) -> Any:
        found.append(settings)
        return real(exported, **settings)

    monkeypatch.setattr(torch_tensorrt.dynamo, "compile", watched)
    return found


@pytest.mark.usefixtures("no_gpu_asked")
def test_built_engines_are_reported_and_leftovers_warn() -> None:
    with pytest.warns(LeftoverOperatorsWarning, match=r"stage 'back' .*special_bessel_j0"):
        compiled = _build(Odd(), TensorRTOptions())
    (rows,) = engine_report(compiled)
    assert [row.stage for row in rows] == list(STAGES)
    assert [row.full for row in rows] == [True, True, True, False]
    assert all(row.engines and row.in_engines for row in rows)
    assert rows[-1].engines > 1 and set(rows[-1].leftovers) == LEFT


@pytest.mark.usefixtures("no_gpu_asked")
def test_require_full_is_refused_before_anything_is_built(asked: list[Any]) -> None:
    with pytest.raises(LeftoverOperatorsError) as caught:
        _build(Odd(), TensorRTOptions(require_full=True))
    assert set(caught.value.leftovers) == LEFT
    assert asked and all(settings["dryrun"] for settings in asked)


def test_no_engine_computes_in_float64() -> None:
    """torch-tensorrt would take the sum of what it refuses to cast."""
    program = fxcache.transform(Odd().requires_grad_(False), CONFIG).specialization_for(_inputs())[0].program
    (back,) = [
        s for s in prepare_all(program, captured_shapes(program), TensorRTOptions())[1] if s.name == "back"
    ]
    lowered, _ = lower_stage(back, TensorRTOptions().settings(), dry=True)
    engines = engines_in(lowered)
    assert engines and not any(in_double(n) for m in engines.values() for n in m.graph.nodes)  # type: ignore


@pytest.mark.usefixtures("no_gpu_asked")
def test_weights_held_twice_are_said() -> None:
    tied = ToyDiT()
    tied.head.weight = tied.embed.weight  # front and back
    with pytest.warns(RepeatedWeightsWarning, match="held again by 'back'"):
        _build(tied, TensorRTOptions())
    with pytest.warns(RepeatedWeightsWarning, match="once more"):
        compiled = _build(ToyDiT(), TensorRTOptions(), tokens=(5, 7))
    assert len(engine_report(compiled)) == 2


class Scaled(ToyDiT):
    """A number of the model's own in its graph."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.requires_grad_(False)

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        return super().forward(hidden_states * self.scale, timestep)


def _stages(config: str, seed: int = 0, model: nn.Module | None = None) -> dict[str, Prepared]:
    model = toy(seed=seed) if model is None else model
    program = fxcache.transform(model, config).specialization_for(_inputs())[0].program
    return {s.name: s for s in prepare_all(program, captured_shapes(program), TensorRTOptions())[1]}


def test_an_engine_is_kept_for_its_graph_and_not_for_its_weights_or_settings(tmp_path: Path) -> None:
    """torch-tensorrt's own key is the same for both scales: it leaves out operators' arguments."""
    from torch_tensorrt.dynamo._engine_cache import BaseEngineCache

    strict, loose = _stages("F1B1_W1M0MC2_T1O1_R0.1"), _stages("F1B1_W9M0MC0_T1O1_R0.9")
    other = _stages("F1B1_W1M0MC2_T1O1_R0.1", seed=1)
    half, third = (_stages("F1B1_W1M0MC2_T1O1_R0.1", model=Scaled(scale)) for scale in (0.5, 0.3))

    def key(stage: Prepared) -> str:
        from torch_tensorrt.dynamo import CompilationSettings

        assert stage.engine is not None
        return BaseEngineCache.get_hash(stage.engine.graph, [], CompilationSettings())

    def folder(stage: Prepared) -> Path:
        assert stage.exported is not None
        return engine_folder(tmp_path, stage.exported)

    assert key(half["front"]) == key(third["front"])
    assert folder(half["front"]) != folder(third["front"])
    for same in (other, loose):
        assert [folder(s) for s in strict.values()] == [folder(s) for s in same.values()]
    assert len({folder(s) for s in strict.values()}) == len(STAGES)


def test_the_cache_on_disk_is_what_torch_tensorrt_is_asked_for(tmp_path: Path, asked: list[Any]) -> None:
    """Refittable engines cannot be built without a GPU (TensorRT-RTX compiles their kernels at once)."""
    stage = _stages(CONFIG)["compute"]
    assert stage.exported is not None
    _, coverage = lower_stage(stage, TensorRTOptions(cache_dir=tmp_path).settings(), dry=True)
    assert coverage.full
    (settings,) = asked
    assert settings["cache_built_engines"] and settings["reuse_cached_engines"]
    assert settings["immutable_weights"] is False
    assert settings["engine_cache_dir"] == str(engine_folder(tmp_path, stage.exported))


def test_arguments_that_torch_tensorrt_would_ignore_are_refused(tmp_path: Path) -> None:
    cached = fxcache.transform(toy(), CONFIG)
    for ask in (
        lambda: fxcache.compile(cached, backend="tensorrt", optimisation=5),
        lambda: fxcache.compile(cached, backend="tensorrt", mode="single"),
        lambda: fxcache.export(cached, tmp_path / "a.zip", _inputs(), backend="tensorrt", optimisation=5),
    ):
        with pytest.raises(BackendError, match=r"optimisation= must be an argument|mode='single'"):
            ask()
    known = {"optimization_level": 5, "use_fp32_acc": True}
    require_known(require_torch_tensorrt(), known)


class Masked(nn.Module):
    """What attention with a mask is on a GPU once torch-tensorrt has decomposed it."""

    def forward(self, query: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        attend = torch.ops.aten._scaled_dot_product_efficient_attention.default
        return attend(query, query, query, bias, False)[0]  # type: ignore[no-any-return]


def test_a_mask_stays_a_mask() -> None:
    """By default torch-tensorrt replaces the mask of square attention by a causal one."""
    from torch_tensorrt.dynamo import CompilationSettings
    from torch_tensorrt.dynamo.lowering.passes.force_causal_efficient_attention import (
        force_causal_efficient_attention,
    )

    values = (torch.zeros(1, 2, 8, 16), torch.zeros(1, 2, 8, 8))
    with torch.device("meta"):
        graph = torch.export.export(Masked(), tuple(torch.empty_like(v, device="meta") for v in values))
    names = CompilationSettings.__dataclass_fields__
    chosen = {k: v for k, v in TensorRTOptions().settings().items() if k in names}
    kept = force_causal_efficient_attention(graph.module(check_guards=False), CompilationSettings(**chosen))
    lost = force_causal_efficient_attention(graph.module(check_guards=False), CompilationSettings())
    attend = torch.ops.aten._scaled_dot_product_efficient_attention.default
    (ours,) = kept.graph.find_nodes(op="call_function", target=attend)
    (theirs,) = lost.graph.find_nodes(op="call_function", target=attend)
    assert ours.args[3] is not None and theirs.args[3] is None


@pytest.mark.parametrize(("asked", "disabled"), [("highest", True), ("high", False)])
def test_float32_products_are_rounded_where_torch_rounds_them(asked: str, disabled: bool) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(asked)
        assert TensorRTOptions().settings()["disable_tf32"] is disabled
    finally:
        torch.set_float32_matmul_precision(before)
