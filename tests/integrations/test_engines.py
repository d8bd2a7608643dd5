"""The adapters of serving engines, around the embedded pipeline in the place of the engine's own."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fxcache
from fxcache import embedded
from fxcache.errors import ConfigError, NoDenoiserError, UnknownOptionError
from tests.integrations import engine_like
from tests.integrations.engine_like import SGLANG, TENSORRT_LLM, VLLM_OMNI, adapter

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.fixture
def pipe() -> Any:
    return embedded.load_pipeline()


@pytest.fixture
def vllm_omni() -> Iterator[Any]:
    with adapter("vllm_omni", VLLM_OMNI) as module:
        yield module


@pytest.fixture
def tensorrt_llm() -> Iterator[Any]:
    with adapter("tensorrt_llm", TENSORRT_LLM) as module:
        yield module


@pytest.fixture
def sglang() -> Iterator[Any]:
    with adapter("sglang", SGLANG) as module:
        yield module


def draw(pipe: Any, steps: int) -> Tensor:
    return embedded.sample(pipe, [3], num_inference_steps=steps)


def hits(pipe: Any) -> int:
    return len(pipe.transformer.stats()["cond"].cached_steps)


# ---------------------------------------------------------------------- vLLM-Omni


def test_vllm_omni_takes_a_plan_for_the_steps_of_each_request(vllm_omni: Any, pipe: Any) -> None:
    plain = pipe.transformer
    backend = vllm_omni.FxcacheBackend({"speedup": 2.0})
    assert not backend.is_enabled()
    backend.enable(pipe)
    assert backend.is_enabled()
    for steps in (8, 12, 1, 8):
        backend.refresh(pipe, steps)
        draw(pipe, steps)
        assert hits(pipe) == steps // 2
    assert len(pipe.transformer.specializations()) == 1
    backend.disable(pipe)
    assert pipe.transformer is plain and not backend.is_enabled()


def test_vllm_omni_with_every_step_computed_is_the_model(vllm_omni: Any, pipe: Any) -> None:
    expected = draw(pipe, 4)
    backend = vllm_omni.FxcacheBackend({"residual_diff_threshold": 0.0})
    backend.enable(pipe)
    backend.refresh(pipe, 4)
    assert torch.equal(draw(pipe, 4), expected)


def test_vllm_omnis_fields_are_read_as_theirs(vllm_omni: Any) -> None:
    def config(**given: Any) -> str:
        return str(vllm_omni.FxcacheBackend(given).settings.of_run(28))

    assert config() == "F1B0_W4M0MC3_T0O1_R0.24"
    given = {"Fn_compute_blocks": 2, "max_cached_steps": 9, "max_continuous_cached_steps": -1}
    assert config(**given, enable_taylorseer=True) == "F2B0_W4M9MC0_T1O1_R0.24"
    assert config(setting="few@8") == str(fxcache.CacheConfig.from_string("few@8"))
    with pytest.raises(ConfigError, match="scm_steps_mask_policy='fast'"):
        config(scm_steps_mask_policy="fast")
    with pytest.raises(UnknownOptionError, match="no 'sped_up'"):
        config(sped_up=2)


def test_vllm_omnis_names_of_denoisers_may_lie_deeper(vllm_omni: Any, pipe: Any) -> None:
    inner = types.SimpleNamespace(dit=pipe.transformer)
    backend = vllm_omni.FxcacheBackend({"speedup": 2.0})
    backend.enable(types.SimpleNamespace(_dit_modules=["inner.dit", "inner.other"], inner=inner))
    assert isinstance(inner.dit, fxcache.CachedTransformer)


def test_vllm_omni_without_a_denoiser_says_so(vllm_omni: Any) -> None:
    with pytest.raises(NoDenoiserError):
        vllm_omni.FxcacheBackend({"speedup": 2.0}).enable(types.SimpleNamespace())


def test_vllm_omnis_selector_knows_the_name(vllm_omni: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = vllm_omni.selector.get_cache_backend
    engine_like.place(monkeypatch, vllm_omni.RUNNER, {"get_cache_backend": theirs})
    monkeypatch.setattr(vllm_omni.selector, "get_cache_backend", theirs)
    vllm_omni.register()
    for module in (vllm_omni.selector, vllm_omni.sys.modules[vllm_omni.RUNNER]):
        assert isinstance(module.get_cache_backend("fxcache", {}), vllm_omni.FxcacheBackend)
        assert module.get_cache_backend("none", {}) is None
        with pytest.raises(ValueError, match="Unsupported"):
            module.get_cache_backend("fxcached", {})


# ---------------------------------------------------------------------- TensorRT-LLM


def engine_pipeline(pipe: Any, cuda_graph: bool = False, accelerator: Any = None) -> Any:
    switches = types.SimpleNamespace(cuda_graph=types.SimpleNamespace(enable=cuda_graph))
    return types.SimpleNamespace(
        transformer=pipe.transformer,
        transformer_components=["transformer"],
        pipeline_config=switches,
        cache_accelerator=accelerator,
    )


def test_tensorrt_llm(tensorrt_llm: Any, pipe: Any) -> None:
    engine, plain = engine_pipeline(pipe), pipe.transformer
    accelerator = tensorrt_llm.install(engine, speedup=2.0)
    assert engine.cache_accelerator is accelerator and accelerator.is_enabled()
    accelerator.wrap()  # again: nothing
    pipe.transformer = engine.transformer
    for steps in (8, 6):
        accelerator.refresh(steps)
        draw(pipe, steps)
        assert accelerator.get_stats()["transformer"]["cond"]["steps"] == steps
        assert len(accelerator.get_stats()["transformer"]["cond"]["cached_steps"]) == steps // 2
    accelerator.unwrap()
    assert engine.transformer is plain and not accelerator.is_enabled() and accelerator.get_stats() == {}


def test_tensorrt_llms_own_accelerator_makes_room(tensorrt_llm: Any, pipe: Any) -> None:
    unwrapped: list[bool] = []
    theirs = types.SimpleNamespace(unwrap=lambda: unwrapped.append(True))
    engine = engine_pipeline(pipe, accelerator=theirs)
    tensorrt_llm.install(engine, "F1B0_W2M0MC1_T0O1_R9")
    assert unwrapped and isinstance(engine.transformer, fxcache.CachedTransformer)


def test_tensorrt_llms_cuda_graphs_are_refused(tensorrt_llm: Any, pipe: Any) -> None:
    with pytest.raises(ConfigError, match="switch it off"):
        tensorrt_llm.install(engine_pipeline(pipe, cuda_graph=True), "2x")


# ---------------------------------------------------------------------- SGLang


class Stage:
    """A denoising stage, which mounts cache-dit for a request, or not."""

    def __init__(self, transformer: Any) -> None:
        self.transformer, self.transformer_2 = transformer, None
        self._cache_dit_enabled = False

    def _maybe_enable_cache_dit(self, steps: int, batch: Any) -> None:
        self._cache_dit_enabled = bool(batch.sampling_params.enable_cache_dit)

    def _unmount_cache_dit(self) -> None:
        self._cache_dit_enabled = False


def request(asked: Any = None, enable: bool | None = None) -> Any:
    params = None if asked is None else {"fxcache": asked}
    sampling = types.SimpleNamespace(cache_dit_params=params, enable_cache_dit=enable)
    return types.SimpleNamespace(sampling_params=sampling)


@pytest.fixture
def mount(sglang: Any) -> Any:
    hook = sglang.Requests()
    return lambda stage, steps, batch: hook(Stage._maybe_enable_cache_dit, stage, steps, batch)


def test_sglang_by_request(mount: Any, pipe: Any) -> None:
    plain, stage = pipe.transformer, Stage(pipe.transformer)
    expected = draw(pipe, 8)
    for asked, steps, cached in (
        ({"speedup": 2.0}, 8, 4),
        ({"speedup": 4.0}, 8, 6),
        ({"setting": "F1B0_W2M0MC1_T0O1_R9"}, 8, 3),
        ({"speedup": 2.0}, 6, 3),
    ):
        mount(stage, steps, request(asked))
        pipe.transformer = stage.transformer
        draw(pipe, steps)
        assert hits(pipe) == cached and not stage._cache_dit_enabled
    for off in (request(), request({"speedup": 2.0}, enable=False)):
        mount(stage, 8, off)
        assert stage.transformer is plain
    pipe.transformer = stage.transformer
    assert torch.equal(draw(pipe, 8), expected)


def test_sglangs_cache_dit_makes_room_and_comes_back(mount: Any, pipe: Any) -> None:
    stage = Stage(pipe.transformer)
    mount(stage, 8, request(enable=True))
    assert stage._cache_dit_enabled
    mount(stage, 8, request({}))
    assert not stage._cache_dit_enabled and isinstance(stage.transformer, fxcache.CachedTransformer)
    mount(stage, 8, request(enable=True))
    assert stage._cache_dit_enabled and not isinstance(stage.transformer, fxcache.CachedTransformer)


def test_sglang_with_two_experts(mount: Any, pipe: Any) -> None:
    stage = Stage(pipe.transformer)
    stage.transformer_2 = embedded.load_pipeline().transformer
    mount(stage, (5, 3), request({"speedup": 2.0}))
    assert [str(t.cache_config)[:2] for t in (stage.transformer, stage.transformer_2)] == ["P5", "P3"]


def test_sglang_names_what_it_does_not_know(mount: Any, pipe: Any) -> None:
    with pytest.raises(UnknownOptionError, match="no 'speed'"):
        mount(Stage(pipe.transformer), 8, request({"speed": 2.0}))


def test_sglangs_hook_is_around_its_own_mounting(sglang: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    registered: dict[str, Any] = {}

    def plugin_hook(target: str, type: Any) -> Any:
        return lambda hook: registered.update({target: (hook, type)})

    monkeypatch.setattr(sglang, "plugin_hook", plugin_hook)
    sglang.register()
    ((target, (hook, kind)),) = registered.items()
    assert target.endswith(".DenoisingStage._maybe_enable_cache_dit")
    assert isinstance(hook, sglang.Requests) and kind is sglang.HookType.AROUND


# ---------------------------------------------------------------------- found by the engines


@pytest.mark.parametrize(
    ("group", "name"),
    [("vllm_omni.general_plugins", "vllm_omni"), ("sglang.multimodal_gen.plugins", "sglang")],
)
def test_the_engines_find_their_plug_ins(group: str, name: str) -> None:
    expected = f'[project.entry-points."{group}"]\nfxcache = "fxcache.integrations.{name}:register"\n'
    assert expected in PYPROJECT.read_text()
