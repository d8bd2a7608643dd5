"""What diffusers does to a model, or around it: modular pipelines, hot-swapped LoRAs, `enable_cache`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from diffusers.modular_pipelines.flux.modular_blocks_flux import FluxCoreDenoiseStep
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor
from torch._dynamo.utils import counters

import fxcache
from fxcache.embedded import example_inputs, load_transformer
from fxcache.errors import ConfigError

NOTHING = "F1B0_W2M0MC0_T0O1_R0"
INPUTS = example_inputs(batch=1)


# ---------------------------------------------------------------------- modular pipelines


@pytest.fixture
def pipe() -> Any:
    pipe = FluxCoreDenoiseStep().init_pipeline()
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=1.0)
    pipe.update_components(transformer=load_transformer(), scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def denoise(pipe: Any, steps: int = 8) -> Tensor:
    prompt, pooled = INPUTS["encoder_hidden_states"], INPUTS["pooled_projections"]
    return pipe(
        prompt_embeds=prompt,
        pooled_prompt_embeds=pooled,
        num_inference_steps=steps,
        height=32,
        width=32,
        generator=torch.Generator().manual_seed(0),
        output="latents",
    )


def test_a_modular_pipeline_is_transformed_and_restored(pipe: Any) -> None:
    expected, plain = denoise(pipe), pipe.transformer
    assert fxcache.transform(pipe, NOTHING) is pipe
    assert torch.equal(denoise(pipe), expected)
    assert fxcache.restore(pipe).transformer is plain
    fxcache.transform(pipe, fxcache.plan(8, 2.0))
    first = denoise(pipe)
    assert 0 < (first - expected).abs().mean() < 0.1
    assert len(pipe.transformer.stats()["default"].cached_steps) == 4
    assert torch.equal(denoise(pipe), first)  # the next run is noticed


def test_a_modular_pipeline_takes_a_cached_component(pipe: Any) -> None:
    expected = denoise(pipe)
    pipe.update_components(transformer=fxcache.transform(pipe.transformer, NOTHING))
    assert torch.equal(denoise(pipe), expected)


# ---------------------------------------------------------------------- hot-swapped LoRAs


def style(seed: int, rank: int) -> dict[str, Tensor]:
    """The weights of a LoRA as `load_lora_adapter` takes them."""
    model = load_transformer()
    targets = ["to_q", "to_k", "proj_out"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.add_adapter(LoraConfig(r=rank, lora_alpha=2, target_modules=targets, init_lora_weights=False))
    weights = get_peft_model_state_dict(model, adapter_name="default")
    return {name: weight.detach().clone() for name, weight in weights.items()}


def wear(model: Any, weights: dict[str, Tensor], hotswap: bool) -> None:
    model.load_lora_adapter(dict(weights), adapter_name="default", prefix=None, hotswap=hotswap)
    model.eval().requires_grad_(False)


def step(model: Any, timestep: float) -> Tensor:
    with torch.no_grad():
        return model(**{**INPUTS, "timestep": torch.tensor([timestep])})[0]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hot_swap_captures_nothing(when: str) -> None:
    first, second = style(1, rank=2), style(2, rank=4)
    model = load_transformer()
    model.enable_lora_hotswap(target_rank=4)
    if when == "before":
        wear(model, first, hotswap=False)
    cached = fxcache.transform(model, NOTHING)
    if when == "after":
        wear(cached, first, hotswap=False)
    seen = [step(cached, 0.9)]
    captured = cached.specializations()
    for weights in (second, first):
        wear(cached, weights, hotswap=True)
        seen.append(step(cached, 0.8))
        assert torch.equal(seen[-1], step(model, 0.8))
    assert not torch.equal(seen[1], seen[2])
    assert [id(s) for s in cached.specializations()] == [id(s) for s in captured]


@pytest.mark.full
def test_a_hot_swap_compiles_nothing() -> None:
    first, second = style(1, rank=2), style(2, rank=4)
    model = load_transformer()
    model.enable_lora_hotswap(target_rank=4)
    wear(model, first, hotswap=False)
    fast = fxcache.compile(fxcache.transform(model, "F1B0_W1M0MC1_T0O1_R9"))
    for timestep in (0.9, 0.8, 0.7):
        step(fast, timestep)
    compiled = counters["stats"]["unique_graphs"]
    for weights in (second, first):
        wear(fast, weights, hotswap=True)
        fast.reset()
        torch.testing.assert_close(step(fast, 0.9), step(model, 0.9))
        step(fast, 0.8)
        assert fast.stats()["default"].cached_steps == (1,)
    assert counters["stats"]["unique_graphs"] == compiled


# ---------------------------------------------------------------------- enable_cache


def test_enable_cache_with_one_of_our_configs_says_where_it_goes() -> None:
    config = fxcache.CacheConfig(fn_compute_blocks=1)
    with pytest.raises(ConfigError, match=r"enable_cache\(\): this model is cached already: .* configure"):
        fxcache.transform(load_transformer(), NOTHING).enable_cache(config)
    plain = load_transformer()
    assert isinstance(plain, FluxTransformer2DModel)
    with pytest.raises(ValueError, match="CacheConfig"):  # diffusers' own
        plain.enable_cache(config)
