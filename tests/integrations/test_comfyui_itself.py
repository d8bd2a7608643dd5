"""The nodes in ComfyUI itself: its samplers, its patcher, its FLUX; where its folder is on PYTHONPATH."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fxcache.integrations.comfyui import NODE_CLASS_MAPPINGS

pytest.importorskip("comfy.options", reason="needs ComfyUI's folder on PYTHONPATH")
FLUX = {
    **{"image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 32, "context_in_dim": 32},
    **{"hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 4, "depth": 3, "depth_single_blocks": 4},
    **{"axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": False},
}


@pytest.fixture(scope="module")
def patcher() -> Any:
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    import comfy.model_patcher
    import comfy.supported_models

    model = comfy.supported_models.FluxSchnell({**FLUX, "dtype": torch.float32}).get_model(
        {}, "", device="cpu"
    )
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model.eval().requires_grad_(False), cpu, cpu)


def condition(seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    pooled = torch.randn(1, 32, generator=generator)
    return [[torch.randn(1, 5, 32, generator=generator), {"pooled_output": pooled}]]


def sample(patcher: Any, steps: int = 8, cfg: float = 3.0, sampler: str = "euler", **options: Any) -> Tensor:
    import comfy.samplers

    noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    arguments = patcher, steps, torch.device("cpu"), sampler, "simple", 1.0, patcher.model_options
    with torch.inference_mode():
        return comfy.samplers.KSampler(*arguments).sample(
            noise,
            condition(1),
            condition(2),
            cfg,
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=0,
            **options,
        )


def only(patcher: Any) -> Any:
    (made,) = patcher.get_attachment("fxcache").cached.values()
    return made


def cached(patcher: Any, speedup: float, setting: str = "") -> Any:
    return NODE_CLASS_MAPPINGS["FxcacheModel"]().apply(patcher, speedup, 0, setting)[0]


@pytest.mark.parametrize(("cfg", "name"), [(3.0, "uncond+cond"), (1.0, "cond")])
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_sampling(patcher: Any, cfg: float, name: str, sampler: str) -> None:
    expected = sample(patcher, cfg=cfg, sampler=sampler)
    assert torch.equal(sample(cached(patcher, 1.0), cfg=cfg, sampler=sampler), expected)
    found = cached(patcher, 2.0)
    first = sample(found, cfg=cfg, sampler=sampler)
    context = only(found).stats()[name]
    assert context.steps == 8 and len(context.cached_steps) == 4
    assert (first - expected).square().mean() < 0.1 * expected.square().mean()  # random weights
    assert torch.equal(sample(found, cfg=cfg, sampler=sampler), first)
    report = NODE_CLASS_MAPPINGS["FxcacheReport"]().report(found, {"samples": first})
    assert name in report["result"][1]


def test_a_patch_of_a_block_and_a_wrapper_of_the_model(patcher: Any) -> None:
    from comfy.patcher_extension import WrappersMP

    def halved(given: Any, block: Any) -> Any:
        found = block["original_block"](given)
        return {**found, "img": 0.5 * (given["img"] + found["img"])}

    patched = patcher.clone()
    patched.set_model_patch_replace(halved, "dit", "double_block", 1)
    patched.add_wrapper_with_key(
        WrappersMP.DIFFUSION_MODEL, "another", lambda executor, *a, **k: executor(*a, **k)
    )
    expected = sample(patched)
    assert not torch.equal(expected, sample(patcher))
    assert torch.equal(sample(cached(patched, 1.0)), expected)
    assert len(cached_steps(cached(patched, 2.0))) == 4


def cached_steps(patcher: Any) -> tuple[int, ...]:
    sample(patcher)
    return only(patcher).stats()["uncond+cond"].cached_steps


def test_a_lora_in_the_weights(patcher: Any) -> None:
    found = cached(patcher, 1.0)
    plain = sample(found)
    weight = "diffusion_model.double_blocks.1.img_mlp.0.weight"
    tuned = found.clone()
    tuned.add_patches({weight: ("diff", (torch.ones(128, 64) * 0.05,))})
    expected = sample(tuned_alone(patcher, weight))
    assert not torch.equal(expected, plain)
    assert torch.equal(sample(tuned), expected)
    assert torch.equal(sample(found), plain)


def tuned_alone(patcher: Any, weight: str) -> Any:
    tuned = patcher.clone()
    tuned.add_patches({weight: ("diff", (torch.ones(128, 64) * 0.05,))})
    return tuned


def test_interrupted(patcher: Any) -> None:
    def stop(step: int, *rest: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt

    found = cached(patcher, 2.0)
    expected = sample(found)
    with pytest.raises(KeyboardInterrupt):
        sample(found, callback=stop)
    assert torch.equal(sample(found), expected)
