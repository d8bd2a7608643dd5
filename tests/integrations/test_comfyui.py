"""The folder for ComfyUI's `custom_nodes`, loaded as ComfyUI loads it, and its nodes."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fxcache
from fxcache.errors import ConfigError, NotationError, PlanError
from tests.integrations import comfy_like
from tests.integrations.comfy_like import WIDTH, BaseModel, Denoiser, Guider, Patcher

FOLDER = Path(fxcache.__file__).parent / "integrations" / "comfyui"


def load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """As ComfyUI's `load_custom_node` does: by path, under a name made of it."""
    name = str(folder).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, module in comfy_like.as_package().items():
        monkeypatch.setitem(sys.modules, name, module)
    return load(FOLDER, monkeypatch).NODE_CLASS_MAPPINGS


@pytest.fixture
def patcher() -> Patcher:
    torch.manual_seed(0)
    return Patcher(BaseModel(Denoiser().eval().requires_grad_(False)))


def sample(patcher: Patcher, steps: int = 8, joined: bool = False, tokens: int = 6, **options: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1, tokens, WIDTH, generator=generator)
    conditions = [torch.randn(1, 3, WIDTH, generator=generator) for _ in range(2)]
    with torch.inference_mode():
        return Guider(patcher, joined, **options).sample(noise, torch.linspace(1, 0, steps + 1), conditions)


def cached(nodes: Any, patcher: Patcher, speedup: float = 2.0, steps: int = 0, setting: str = "") -> Patcher:
    (found,) = nodes["FxcacheModel"]().apply(patcher, speedup, steps, setting)
    return found


def report(nodes: Any, patcher: Patcher) -> str:
    return nodes["FxcacheReport"]().report(patcher, {"samples": None})["result"][1]


def only(patcher: Patcher) -> fxcache.CachedTransformer:
    (made,) = patcher.get_attachment("fxcache").cached.values()
    return made


def contexts(patcher: Patcher) -> dict[str, tuple[int, ...]]:
    made = only(patcher)
    return {name: context.cached_steps for name, context in made.stats().contexts.items()}


@pytest.mark.parametrize("link", [True, False], ids=["link", "copy"])
def test_the_folder_in_custom_nodes_has_the_mappings(
    link: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "custom_nodes" / "fxcache"
    folder.parent.mkdir()
    if link:
        folder.symlink_to(FOLDER, target_is_directory=True)
    else:
        shutil.copytree(FOLDER, folder)
    module = load(folder, monkeypatch)
    assert set(module.NODE_CLASS_MAPPINGS) == {"FxcacheModel", "FxcacheReport"}
    assert set(module.NODE_DISPLAY_NAME_MAPPINGS) == set(module.NODE_CLASS_MAPPINGS)
    for node in module.NODE_CLASS_MAPPINGS.values():
        assert callable(getattr(node, node.FUNCTION)) and node.INPUT_TYPES()["required"] and node.CATEGORY
    assert "comfy" not in sys.modules


@pytest.mark.parametrize("joined", [True, False])
def test_with_every_step_computed_it_is_the_model(nodes: Any, patcher: Patcher, joined: bool) -> None:
    expected = sample(patcher, joined=joined)
    assert torch.equal(sample(cached(nodes, patcher, speedup=1.0), joined=joined), expected)
    static = cached(nodes, patcher, setting="F1B0_W2M0MC0_T0O1_R0")
    assert torch.equal(sample(static, joined=joined), expected)


def test_a_plan_for_the_samplers_steps(nodes: Any, patcher: Patcher) -> None:
    expected, plain = sample(patcher), patcher.model.diffusion_model
    found = cached(nodes, patcher)
    first = sample(found)
    assert 0 < (first - expected).abs().max() < 0.05
    hits = tuple(set(range(8)) - set(fxcache.plan(8, 2.0).computed))
    assert contexts(found) == {"cond": hits, "uncond": hits}
    assert torch.equal(sample(found), first)  # nothing of the first is left
    assert patcher.model.diffusion_model is plain and not patcher.wrappers
    graphs = only(found).specializations()
    sample(found, steps=12)
    assert len(contexts(found)["cond"]) == 6
    made = only(found).specializations()
    assert made[0] is graphs[0] and "cond" in report(nodes, found)


def test_both_conditions_in_one_call_are_one_context(nodes: Any, patcher: Patcher) -> None:
    found = cached(nodes, patcher, setting="2x")
    sample(found, joined=True)
    assert list(contexts(found)) == ["uncond+cond"]


def test_two_prompts_of_one_kind_keep_apart(nodes: Any, patcher: Patcher) -> None:
    cache = cached(nodes, patcher).get_attachment("fxcache")
    names = [cache.name({"cond_or_uncond": [0], "uuids": [i]}) for i in ("a", "b", "a", "c")]
    assert names == ["cond", "cond #2", "cond", "cond #3"]


def test_a_plans_file(nodes: Any, patcher: Patcher, tmp_path: Path) -> None:
    plan = fxcache.plan(8, 4.0)
    plan.save(tmp_path / "plan.json")
    found = cached(nodes, patcher, setting=str(tmp_path / "plan.json"))
    sample(found)
    assert len(contexts(found)["cond"]) == 8 - len(plan.computed)


def test_a_model_on_each_device_has_a_cache_of_its_own(nodes: Any, patcher: Patcher) -> None:
    cache = cached(nodes, patcher).get_attachment("fxcache")
    models = [Denoiser().eval(), Denoiser().eval()]
    made = [cache.transformed(model) for model in models]
    assert [cache.transformed(model) for model in models] == made and made[0] is not made[1]


def test_what_is_interrupted_leaves_nothing(nodes: Any, patcher: Patcher) -> None:
    found = cached(nodes, patcher)
    expected = sample(found)
    stats = only(found).stats
    left = stats()["cond"].state_bytes  # of the record
    with pytest.raises(KeyboardInterrupt):
        sample(found, stop_at=5)
    assert isinstance(patcher.model.diffusion_model, Denoiser)
    assert [c.state_bytes for c in stats().contexts.values()] == [left, left]
    assert torch.equal(sample(found), expected)


def test_one_step_is_not_cached(nodes: Any, patcher: Patcher) -> None:
    assert torch.equal(sample(cached(nodes, patcher), steps=1), sample(patcher, steps=1))


def test_control_and_patches_reach_the_model(nodes: Any, patcher: Patcher) -> None:
    def halve(update: Tensor, options: dict[str, Any]) -> Tensor:
        return update * (0.5 if options["cond_or_uncond"] == [0] else 1.0)

    control = {"output": [torch.ones(1, 2, WIDTH), torch.ones(1, 2, WIDTH)]}
    patcher.patches["update"] = [halve]
    expected = sample(patcher, control=control)
    assert not torch.equal(expected, sample(patcher))
    assert torch.equal(sample(cached(nodes, patcher, speedup=1.0), control=control), expected)


def test_other_wrappers_run_within(nodes: Any, patcher: Patcher) -> None:
    def scaled(executor: Any, *args: Any) -> Any:
        return executor(*args) * 0.5

    patcher.add_wrapper_with_key("diffusion_model", "another", scaled)
    patcher.add_wrapper_with_key("apply_model", "another", scaled)
    expected = sample(patcher)
    assert torch.equal(sample(cached(nodes, patcher, speedup=1.0)), expected)


def test_a_second_node_takes_the_place_of_the_first(nodes: Any, patcher: Patcher) -> None:
    found = cached(nodes, cached(nodes, patcher), setting="C0_Q0_NONE")
    assert torch.equal(sample(found), sample(patcher))


def test_a_compiled_model_is_refused(nodes: Any, patcher: Patcher) -> None:
    patcher.add_wrapper_with_key("apply_model", "torch.compile", lambda executor, *args: executor(*args))
    with pytest.raises(ConfigError, match="remove the node that compiles it"):
        sample(cached(nodes, patcher))


def test_a_setting_that_cannot_be_read_is_refused_by_the_node(nodes: Any, patcher: Patcher) -> None:
    with pytest.raises(NotationError):
        cached(nodes, patcher, setting="F8")
    with pytest.raises(PlanError):
        cached(nodes, patcher, steps=300)


def test_a_model_without_the_node_reports_so(nodes: Any, patcher: Patcher) -> None:
    assert report(nodes, patcher) == "no fxcache node before this model"
    assert report(nodes, cached(nodes, patcher)) == "nothing was sampled yet"
