"""B20: what people do to the transformer of their pipeline, done to a loaded package.

Each use works, with the picture that the cached model returns, or is refused with what to do instead.
"""

from __future__ import annotations

import copy
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import accelerate
import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline
from diffusers.hooks import FirstBlockCacheConfig, apply_first_block_cache, apply_layerwise_casting
from peft import LoraConfig
from torch import Tensor, nn

import fxcache
from fxcache import PackagedTransformer
from fxcache.errors import FxcacheError, PackageAttributeError, PackageError, PackageUseError
from tests.behaviour.pipelines import build
from tests.behaviour.pipelines.build import PipelineCase
from tests.package.test_in_pipelines import first_calls
from tests.package.test_safety import edited
from tests.toy import latents, toy

CONFIG = "F1B0_W2M0MC2_T0O1_R1000"


def parts() -> dict[str, Any]:
    small = build.transformer("FluxTransformer2DModel", num_layers=1, num_single_layers=1)
    return {**build.flux_parts(), "transformer": small}


CASE: PipelineCase = replace(next(c for c in build.CASES if c.name == "FluxPipeline"), components=parts)


@dataclass(frozen=True)
class Exported:
    """A package of a pipeline's transformer, and the picture with the cached module in the place."""

    path: Path
    picture: Tensor
    hits: dict[str, tuple[bool, ...]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    pipe = CASE.load()
    example = first_calls(CASE, pipe)["transformer"]
    fxcache.transform(pipe, CONFIG)
    picture = CASE.run(pipe)
    hits = {name: c.hits for name, c in pipe.transformer.stats().contexts.items()}
    path = tmp_path_factory.mktemp("package") / "flux.pt2"
    fxcache.export(pipe.transformer, path, example, dynamic=False)
    return Exported(path, picture, hits)


@pytest.fixture
def pipe(exported: Exported) -> DiffusionPipeline:
    """A pipeline with the package in its transformer's place."""
    pipe = CASE.load()
    pipe.transformer = fxcache.load(exported.path)
    return pipe


def works(pipe: DiffusionPipeline, exported: Exported) -> None:
    """Assert that the pipeline returns the cached module's picture, with the same steps cached."""
    torch.testing.assert_close(CASE.run(pipe), exported.picture, rtol=1e-3, atol=1e-3)
    assert {name: c.hits for name, c in pipe.transformer.stats().contexts.items()} == exported.hits


def call_of(package: PackagedTransformer) -> dict[str, Any]:
    """Arguments that the package takes, of random tensors."""
    inputs, described = package.manifest.inputs, package.manifest.arguments["mapping"]
    return {
        name: torch.randn(*map(int, inputs[d["tensor"]].shape)) if "tensor" in d else d.get("value", {})
        for name, d in described.items()
    }


# ------------------------------------------------------------------ what works


def test_a_package_in_the_place(pipe: DiffusionPipeline, exported: Exported) -> None:
    works(pipe, exported)
    assert any(map(any, exported.hits.values()))


def test_a_deep_copy_of_the_pipeline_shares_the_code_and_not_the_state(
    pipe: DiffusionPipeline, exported: Exported
) -> None:
    CASE.run(pipe)
    copied = copy.deepcopy(pipe)
    assert copied.transformer is not pipe.transformer and copied.transformer.run is pipe.transformer.run
    assert copied.transformer.stats().steps == 0
    works(copied, exported)
    works(pipe, exported)


def test_a_copy_under_way_does_not_disturb_the_original(exported: Exported) -> None:
    package = fxcache.load(exported.path)
    call = call_of(package)
    with torch.no_grad():
        package(**call)
        copied = copy.copy(package)
        copied(**call)
    assert package.stats().steps == copied.stats().steps == 1


def test_a_pickle_holds_the_path(pipe: DiffusionPipeline, exported: Exported) -> None:
    data = pickle.dumps(pipe.transformer)
    assert len(data) < 4096 < exported.path.stat().st_size
    pipe.transformer = pickle.loads(data)
    works(pipe, exported)


def test_a_pickle_of_a_file_that_is_gone_or_another(exported: Exported, tmp_path: Path) -> None:
    path = tmp_path / "flux.pt2"
    shutil.copy(exported.path, path)
    data = pickle.dumps(fxcache.load(path))
    path.unlink()
    with pytest.raises(PackageError, match="no such file"):
        pickle.loads(data)
    edited(exported.path, path, lambda fields: fields.update(torch=fields["torch"] + "+another"))
    with pytest.raises(PackageError, match="not the package that was pickled"):
        pickle.loads(data)


def test_a_package_that_is_no_file_is_not_pickled(exported: Exported) -> None:
    package = fxcache.load(exported.path)
    with pytest.raises(PackageUseError, match=r"cannot be pickled.*fxcache\.load"):
        pickle.dumps(PackagedTransformer(package.manifest, package.run))


def test_inference_mode_around_it(pipe: DiffusionPipeline, exported: Exported) -> None:
    with torch.inference_mode():
        works(pipe, exported)
    works(pipe, exported)


def test_forward_hooks_go_around_it(pipe: DiffusionPipeline, exported: Exported) -> None:
    seen: list[str] = []
    pipe.transformer.register_forward_pre_hook(lambda module, args: seen.append("before"))
    handle = pipe.transformer.register_forward_hook(lambda module, args, result: seen.append("after"))
    works(pipe, exported)
    assert seen[:4] == ["before", "after"] * 2
    handle.remove()
    assert len(copy.deepcopy(pipe.transformer)._forward_pre_hooks) == 1


def test_the_pipeline_goes_where_the_package_is(pipe: DiffusionPipeline, exported: Exported) -> None:
    assert pipe.to("cpu").to(torch.float32) is pipe
    assert (pipe.device, pipe.dtype) == (torch.device("cpu"), torch.float32)
    assert pipe.transformer.eval().requires_grad_(False).float().cpu() is pipe.transformer
    works(pipe, exported)


def test_dtype_device_and_config_are_the_models(pipe: DiffusionPipeline) -> None:
    package, model = pipe.transformer, CASE.load().transformer
    assert (package.dtype, package.device) == (model.dtype, model.device)
    where = {"_name_or_path": None}
    assert {**package.config, **where} == {**model.config, **where} and package.config.num_layers == 1
    assert not package.training


def test_a_walk_finds_one_module_without_parts(pipe: DiffusionPipeline) -> None:
    package = pipe.transformer
    assert list(package.named_modules()) == [("", package)] and list(package.modules()) == [package]
    outer = nn.Sequential(package).eval().to("cpu")
    assert [name for name, _ in outer.named_modules()] == ["", "0"]


def test_a_saved_pipeline_is_loaded_with_the_package(
    pipe: DiffusionPipeline, exported: Exported, tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path)  # diffusers says that the package is left out
    assert not (tmp_path / "transformer").exists()
    absent = build.without("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    again = build.load(str(tmp_path), {**absent, "transformer": fxcache.load(exported.path)})  # type: ignore[dict-item]
    works(again, exported)


def test_a_pipeline_made_from_this_one(pipe: DiffusionPipeline, exported: Exported) -> None:
    works(diffusers.FluxPipeline.from_pipe(pipe), exported)


# ------------------------------------------------------------------ autocast


def test_autocast_around_it_is_refused(pipe: DiffusionPipeline, exported: Exported) -> None:
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(PackageUseError, match=r"cannot run within torch\.autocast.*Call it without"),
    ):
        CASE.run(pipe)
    with torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False):
        works(pipe, exported)
    with torch.autocast("cuda", torch.bfloat16, enabled=torch.cuda.is_available()):  # not of its device
        works(pipe, exported)


def test_a_package_exported_within_autocast_runs_within_it(tmp_path: Path) -> None:
    model = toy()
    call = {"hidden_states": latents(1, 0)[0], "timestep": torch.ones(1)}
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        path = fxcache.export(fxcache.transform(model, CONFIG), tmp_path / "a.pt2", call, dynamic=False)
        package, wanted = fxcache.load(path), model(**call)
        found = package(**call)
        assert found.dtype == wanted.dtype == torch.bfloat16
        torch.testing.assert_close(found, wanted, rtol=2e-2, atol=2e-2)
    with pytest.raises(PackageUseError, match=r"without torch\.autocast, being exported within"):
        package(**call)


# ------------------------------------------------------------------ what is refused


def _lora() -> dict[str, Tensor]:
    return {
        "transformer.x_embedder.lora_A.weight": torch.zeros(2, 4),
        "transformer.x_embedder.lora_B.weight": torch.zeros(32, 2),
    }


Use = Callable[[Any], Any]
REFUSED: dict[str, tuple[Use, str]] = {
    "load_lora_weights": (lambda p: p.load_lora_weights(_lora()), r"adapters.*before fxcache\.export"),
    "add_adapter": (lambda p: p.transformer.add_adapter(LoraConfig(target_modules=["proj_out"])), "adapters"),
    "load_lora_adapter": (lambda p: p.transformer.load_lora_adapter(_lora()), "adapters"),
    "enable_model_cpu_offload": (
        lambda p: p.enable_model_cpu_offload(device="cpu"),
        "offload the other components",
    ),
    "enable_sequential_cpu_offload": (
        lambda p: p.enable_sequential_cpu_offload(device="cpu"),
        "offload the other components",
    ),
    "enable_group_offload": (
        lambda p: p.enable_group_offload(torch.device("cpu"), offload_type="leaf_level"),
        "cannot",
    ),
    "cpu_offload_with_hook": (
        lambda p: accelerate.cpu_offload_with_hook(p.transformer, torch.device("cpu")),
        "offload the other components",
    ),
    "dispatch_model": (lambda p: accelerate.dispatch_model(p.transformer, {"": "cpu"}), "cannot"),
    "layerwise casting": (
        lambda p: apply_layerwise_casting(p.transformer, torch.float8_e4m3fn, torch.float32),
        r"casts.*before fxcache\.export",
    ),
    "first block cache": (
        lambda p: apply_first_block_cache(p.transformer, FirstBlockCacheConfig()),
        "cannot show or change its parts",
    ),
    "enable_cache": (lambda p: p.transformer.enable_cache(FirstBlockCacheConfig()), "second cache"),
    "pipe.to(dtype)": (lambda p: p.to(torch.bfloat16), "export the model in the other"),
    "half": (lambda p: p.transformer.half(), "export the model in the other"),
    "to another device": (lambda p: p.transformer.to("meta"), "Export it for each device"),
    "parameters": (lambda p: next(p.transformer.parameters()), "cannot hand out its weights"),
    "buffers": (lambda p: list(p.transformer.buffers()), "cannot hand out its weights"),
    "state_dict": (lambda p: p.transformer.state_dict(), "cannot hand out its weights"),
    "state_dict of a parent": (lambda p: nn.Sequential(p.transformer).state_dict(), "hand out its weights"),
    "load_state_dict": (lambda p: p.transformer.load_state_dict({}), "cannot take other weights"),
    "named_children": (lambda p: list(p.transformer.named_children()), "show or change its parts"),
    "get_submodule": (lambda p: p.transformer.get_submodule("proj_out"), "show or change its parts"),
    "train": (lambda p: p.transformer.train(), "cannot be trained"),
    "requires_grad_": (lambda p: p.transformer.requires_grad_(), "cannot compute gradients"),
    "an attribute": (lambda p: p.transformer.x_embedder, "has no 'x_embedder'"),
    "setting an attribute": (lambda p: setattr(p.transformer, "scale", 2), "setting 'scale'"),
    "setting a part": (lambda p: setattr(p.transformer, "proj_out", nn.Linear(2, 2)), "setting 'proj_out'"),
    "set_attn_processor": (lambda p: p.transformer.set_attn_processor(None), "processors"),
    "set_attention_backend": (
        lambda p: p.transformer.set_attention_backend("native"),
        "set_attention_backend",
    ),
    "enable_freeu": (lambda p: p.transformer.enable_freeu(0.9, 0.2, 1.2, 1.4), "has no 'enable_freeu'"),
    "fuse_qkv_projections": (lambda p: p.transformer.fuse_qkv_projections(), "fuse_qkv_projections"),
    "save_pretrained": (lambda p: p.transformer.save_pretrained("x"), "has no 'save_pretrained'"),
    "fxcache.export": (lambda p: fxcache.export(p.transformer, "x.pt2", {}), r"fxcache\.export\(\)"),
    "fxcache.transform": (lambda p: fxcache.transform(p.transformer, CONFIG), "cannot be transformed"),
    "fxcache.transform of the pipeline": (lambda p: fxcache.transform(p, CONFIG), "cannot be transformed"),
    "fxcache.compile": (lambda p: fxcache.compile(p.transformer), r"fxcache\.compile\(\)"),
    "fxcache.explain": (lambda p: fxcache.explain(p.transformer, CONFIG, {}), "cannot be transformed"),
    "torch.compile": (lambda p: torch.compile(p.transformer), "compiled already"),
    "compile": (lambda p: p.transformer.compile(), "compiled already"),
    "compile_repeated_blocks": (lambda p: p.transformer.compile_repeated_blocks(), "compile_repeated_blocks"),
    "torch.jit.script": (lambda p: torch.jit.script(p.transformer), "compiled already"),
    "torch.fx": (lambda p: torch.fx.symbolic_trace(p.transformer), "cannot"),
    "torch.export": (lambda p: torch.export.export(p.transformer, (), {}), "cannot"),
}


@pytest.mark.parametrize("use", REFUSED)
def test_refused_with_what_to_do(use: str, pipe: DiffusionPipeline, exported: Exported) -> None:
    do, message = REFUSED[use]
    with pytest.raises(PackageUseError, match=message):
        do(pipe)
    fresh = CASE.load()
    fresh.transformer = pipe.transformer  # nothing of it was done
    works(fresh, exported)


def test_gradients_are_refused(exported: Exported) -> None:
    package = fxcache.load(exported.path)
    call = call_of(package)
    call["hidden_states"].requires_grad_()
    with pytest.raises(PackageUseError, match=r"cannot compute gradients.*no_grad"):
        package(**call)
    with torch.no_grad():
        assert not package(**call)[0].requires_grad


def test_looking_whether_it_has_something_does_not_fail(pipe: DiffusionPipeline) -> None:
    assert (
        not hasattr(pipe.transformer, "_hf_hook") and getattr(pipe.transformer, "peft_config", None) is None
    )
    with pytest.raises(PackageAttributeError):
        pipe.transformer.peft_config  # noqa: B018


def test_a_program_around_it_may_be_compiled(pipe: DiffusionPipeline) -> None:
    package = pipe.transformer
    call = call_of(package)

    @torch.compile(backend="eager")
    def around() -> Tensor:
        return package(**call)[0] + 1

    with torch.no_grad():
        wanted = package(**call)[0] + 1
        package.reset()
        assert torch.equal(around(), wanted)


def test_what_is_no_cached_model_is_not_exported() -> None:
    with pytest.raises(
        FxcacheError, match=r"fxcache\.export\(\) must be what fxcache\.transform\(\) returns"
    ):
        fxcache.export(toy(), "x.pt2", {})  # type: ignore[arg-type]
