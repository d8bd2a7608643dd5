"""A cached model lives with what others do to models: adapters, quantisation, offloading, copies."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig
from diffusers.models.attention_processor import JointAttnProcessor2_0
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

import fxcache
from fxcache import CachedTransformer
from fxcache.errors import AlreadyCachedError, CaptureError, GradientWarning, RootHookError
from tests.behaviour.pipelines.build import SD3
from tests.behaviour.zoo import find
from tests.sweep import sweep
from tests.toy import ToyDiT, latents, timesteps, toy

NOTHING = "F1B0_W2M0MC0_T0O1_R0"
ALL = "F1B0_W1M0MC0_T0O1_R1000"
CASE = find("SD3Transformer2DModel")
INSIDE = ["to_q", "to_k"]  # within blocks
OUTSIDE = ["context_embedder", "proj_out"]  # leaves that are themselves replaced


def build() -> tuple[nn.Module, dict[str, Any]]:
    model, inputs = CASE.build()
    return model, {**inputs, "return_dict": False}


def agree(cached: CachedTransformer, inputs: dict[str, Any], plain: nn.Module | None = None) -> Tensor:
    """The cached model returns what the plain one returns; this is the value."""
    with torch.no_grad():
        expected = (plain or cached.original)(**inputs)[0]
        assert torch.equal(cached(**inputs)[0], expected)
    return expected


def lora(targets: list[str]) -> LoraConfig:
    return LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False)


def add_lora(model: Any, targets: list[str]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model.add_adapter(lora(targets))
    model.eval().requires_grad_(False)


# ---------------------------------------------------------------------- LoRA


@pytest.mark.parametrize("targets", sweep((INSIDE, OUTSIDE), (INSIDE,)))
def test_lora_added_after_and_switched_and_removed(targets: list[str]) -> None:
    model, inputs = build()
    cached = fxcache.transform(model, NOTHING)
    plain = agree(cached, inputs)
    add_lora(cached, targets)
    adapted = agree(cached, inputs)
    assert not torch.equal(adapted, plain)
    cached.disable_adapters()
    assert torch.equal(agree(cached, inputs), plain)
    cached.enable_adapters()
    assert torch.equal(agree(cached, inputs), adapted)
    cached.set_adapters("default", 0.5)
    weaker = agree(cached, inputs)
    assert not torch.equal(weaker, adapted)
    cached.unload_lora()
    assert torch.equal(agree(cached, inputs), plain)


def test_lora_added_before_scales_with_the_call() -> None:
    """diffusers sets the scale on the LoRA layers around the forward, out of the graph's sight."""
    model, inputs = build()
    add_lora(model, INSIDE)
    cached = fxcache.transform(model, NOTHING)
    seen = [agree(cached, inputs)]
    for scale in (0.5, 0.25, 0.5):
        seen.append(agree(cached, {**inputs, "joint_attention_kwargs": {"scale": scale}}))
    assert torch.equal(seen[3], seen[1])
    assert not torch.equal(seen[1], seen[0]) and not torch.equal(seen[2], seen[1])
    cached.set_adapters("default", 2.0)
    again = agree(cached, {**inputs, "joint_attention_kwargs": {"scale": 0.5}})
    assert torch.equal(again, seen[0])
    assert all(m.scaling["default"] == 4.0 for m in model.modules() if hasattr(m, "scaling"))


@pytest.mark.full
def test_lora_files_through_the_pipeline(tmp_path: Path) -> None:
    pipe = SD3.load()
    donor, _ = build()
    add_lora(donor, INSIDE)
    layers = get_peft_model_state_dict(donor, adapter_name="default")
    type(pipe).save_lora_weights(tmp_path, transformer_lora_layers=layers)
    plain = SD3.run(pipe)
    fxcache.transform(pipe, NOTHING)
    pipe.load_lora_weights(tmp_path, adapter_name="style", local_files_only=True)
    adapted = SD3.run(pipe)
    assert not torch.equal(adapted, plain)
    half = SD3.run(pipe, joint_attention_kwargs={"scale": 0.5})
    pipe.unload_lora_weights()
    assert torch.equal(SD3.run(pipe), plain)
    fxcache.restore(pipe)
    pipe.load_lora_weights(tmp_path, adapter_name="style", local_files_only=True)
    assert torch.equal(SD3.run(pipe), adapted)
    assert torch.equal(SD3.run(pipe, joint_attention_kwargs={"scale": 0.5}), half)


class SetsItsBlocks(ToyDiT):
    """Acts on its blocks through an attribute, as LoRA scales do."""

    def __init__(self, value: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.value = value
        for block in self.blocks:
            block.gain = 1.0
            block.register_forward_hook(lambda module, _, result: result * module.gain)

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        for block in self.blocks:
            block.gain = self.value(hidden_states)
        try:
            return super().forward(hidden_states, timestep)
        finally:
            for block in self.blocks:
                block.gain = 1.0


def test_plain_values_that_a_forward_sets_on_its_blocks_are_in_force() -> None:
    model = SetsItsBlocks(lambda _: 0.5).eval().requires_grad_(False)
    cached = fxcache.transform(model, NOTHING)
    x, t = latents(1, 0)[0], timesteps(1)[0]
    with torch.no_grad():
        assert torch.equal(cached(x, t), model(x, t))
    assert all(block.gain == 1.0 for block in model.blocks)


def test_tensors_that_a_forward_sets_on_its_blocks_are_refused() -> None:
    model = SetsItsBlocks(lambda x: x.mean()).eval().requires_grad_(False)
    cached = fxcache.transform(model, NOTHING)
    with torch.no_grad(), pytest.raises(CaptureError, match="gain"):
        cached(latents(1, 0)[0], timesteps(1)[0])


# ---------------------------------------------------------------------- quantisation, dtypes


def test_torchao_int8_weights() -> None:
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model, inputs = build()
    plain = agree(fxcache.transform(model, NOTHING), inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_(model.transformer_blocks, Int8WeightOnlyConfig())
    quantised = agree(fxcache.transform(model, NOTHING), inputs)
    assert not torch.equal(quantised, plain)


def test_dynamic_int8_quantisation() -> None:
    model, inputs = build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=True)
    agree(fxcache.transform(model, NOTHING), inputs)


@pytest.mark.parametrize("when", sweep(("before", "after"), ("after",)))
def test_layerwise_casting(when: str) -> None:
    model, inputs = build()
    cast = {"storage_dtype": torch.float8_e4m3fn, "compute_dtype": torch.float32}
    if when == "before":
        model.enable_layerwise_casting(**cast)
        cached = fxcache.transform(model, NOTHING)
    else:
        cached = fxcache.transform(model, NOTHING)
        agree(cached, inputs)
        cached.enable_layerwise_casting(**cast)
    agree(cached, inputs)
    assert model.transformer_blocks[1].attn.to_q.weight.dtype == torch.float8_e4m3fn


def test_moving_to_another_dtype_and_back() -> None:
    model, inputs = build()
    cached = fxcache.transform(model, NOTHING)
    plain = agree(cached, inputs)
    half = {
        k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in inputs.items()
    }
    assert cached.to(torch.float64) is cached
    assert cached.dtype == torch.float64
    assert agree(cached, half).dtype == torch.float64
    cached.to(torch.float32)
    assert torch.equal(agree(cached, inputs), plain)


# ---------------------------------------------------------------------- offloading and hooks


def test_group_offloading() -> None:
    for kind in ("block_level", "leaf_level"):
        model, inputs = build()
        cpu = torch.device("cpu")
        model.enable_group_offload(
            onload_device=cpu, offload_device=cpu, offload_type=kind, num_blocks_per_group=1
        )
        agree(fxcache.transform(model, NOTHING), inputs, build()[0])
        with torch.no_grad():
            model(**inputs)  # tracing left it whole


def test_sequential_offloading_with_weights_on_the_meta_device() -> None:
    from accelerate import cpu_offload

    model, inputs = build()
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.transformer_blocks[0].attn.to_q.weight.is_meta
    agree(fxcache.transform(model, NOTHING), inputs, build()[0])
    assert model.transformer_blocks[0].attn.to_q.weight.is_meta


@pytest.fixture
def log() -> Iterator[list[str]]:
    yield []


def recording_hook(log: list[str]) -> Any:
    from accelerate.hooks import ModelHook

    class Recording(ModelHook):
        def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            log.append("pre")
            return args, {**kwargs, "timestep": kwargs["timestep"] * 0 + 5}

        def post_forward(self, module: nn.Module, output: Any) -> Any:
            log.append("post")
            return (output[0] * 2,)

    return Recording()


@pytest.mark.parametrize("where", sweep(("original", "cached"), ("original",)))
def test_accelerate_hooks_run(where: str, log: list[str]) -> None:
    from accelerate.hooks import add_hook_to_module, remove_hook_from_module

    model, inputs = build()
    reference = add_hook_to_module(build()[0], recording_hook([]))
    cached = fxcache.transform(model, NOTHING)
    add_hook_to_module(model if where == "original" else cached, recording_hook(log))
    agree(cached, inputs, reference)
    assert log == ["pre", "post"]
    remove_hook_from_module(cached, recurse=True)
    agree(cached, inputs, build()[0])
    assert log == ["pre", "post"]


def test_model_cpu_offload_hook_moves_the_model() -> None:
    from accelerate import cpu_offload_with_hook

    model, inputs = build()
    cached, hook = cpu_offload_with_hook(fxcache.transform(model, NOTHING), execution_device="cpu")
    agree(cached, inputs, build()[0])
    hook.offload()
    assert cached.device == torch.device("cpu")


def test_torch_hooks_on_the_original_run(log: list[str]) -> None:
    model = toy()
    model.register_forward_pre_hook(lambda m, args: log.append("pre"))
    model.register_forward_hook(lambda m, args, result: result + 1)
    cached = fxcache.transform(model, NOTHING)
    x, t = latents(1, 0)[0], timesteps(1)[0]
    with torch.no_grad():
        assert torch.equal(cached(x, t), model(x, t))
    assert log == ["pre", "pre"]


def test_a_hook_that_replaces_the_forward_is_refused() -> None:
    from diffusers.hooks import HookRegistry, ModelHook

    class Replaces(ModelHook):
        def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return self.fn_ref.original_forward(*args, **kwargs)

    model = toy()
    cached = fxcache.transform(model, NOTHING)
    HookRegistry.check_if_exists_or_initialize(model).register_hook(Replaces(), "mine")
    with torch.no_grad(), pytest.raises(RootHookError, match="mine"):
        cached(latents(1, 0)[0], timesteps(1)[0])


def test_diffusers_own_cache_and_ours_exclude_each_other() -> None:
    model, _ = build()
    with pytest.raises(AlreadyCachedError):
        fxcache.transform(model, NOTHING).enable_cache(FirstBlockCacheConfig())
    model = find("FluxTransformer2DModel").build()[0]
    model.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(AlreadyCachedError, match="disable_cache"):
        fxcache.transform(model, NOTHING)
    model.disable_cache()
    fxcache.transform(model, NOTHING)


# ---------------------------------------------------------------------- attention


class Quieter(JointAttnProcessor2_0):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        results = super().__call__(*args, **kwargs)
        return tuple(r * 0.5 for r in results) if isinstance(results, tuple) else results * 0.5


def test_attention_processors_can_change() -> None:
    model, inputs = build()
    cached = fxcache.transform(model, NOTHING)
    plain = agree(cached, inputs)
    cached.set_attn_processor(Quieter())
    assert not torch.equal(agree(cached, inputs), plain)
    cached.set_attn_processor(JointAttnProcessor2_0())
    cached.fuse_qkv_projections()
    agree(cached, inputs)


# ---------------------------------------------------------------------- modes, copies, several at once


def test_gradients_run_uncached_with_one_warning() -> None:
    model = toy().requires_grad_(True)
    cached = fxcache.transform(model, ALL)
    x, t = latents(1, 0)[0], timesteps(1)[0]
    with pytest.warns(GradientWarning):
        cached(x, t).sum().backward()
    assert model.blocks[2].mix.weight.grad is not None


def test_inference_mode_hits() -> None:
    cached = fxcache.transform(toy(), ALL)
    with torch.inference_mode():
        for x, t in zip(latents(4, 0), timesteps(4), strict=True):
            cached(x, t)
    assert cached.stats()["default"].hits == (False, True, True, True)


def saved(cached: CachedTransformer) -> CachedTransformer:
    file = io.BytesIO()
    torch.save(cached, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "clone",
    [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c)), saved],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies_are_independent(clone: Callable[[CachedTransformer], CachedTransformer]) -> None:
    cached = fxcache.transform(toy(), ALL)
    x, t = latents(1, 0)[0], timesteps(1)[0]
    with torch.no_grad():
        before = cached(x, t)
        other = clone(cached)
        assert type(other) is CachedTransformer
        assert other.cache_config == cached.cache_config
        assert not other.stats().contexts
        other.original.head.weight.zero_()
        assert not torch.equal(other(x, t), before)
        assert torch.equal(cached.original(x, t), before)


def test_state_dicts_have_the_originals_keys_also_within_another_module() -> None:
    model = toy()
    cached = fxcache.transform(model, ALL)
    assert list(cached.state_dict()) == list(model.state_dict())
    assert [n for n, _ in cached.named_parameters()] == [n for n, _ in model.named_parameters()]
    donor = toy(seed=1)
    cached.load_state_dict(donor.state_dict())
    assert torch.equal(model.head.weight, donor.head.weight)
    outer = nn.ModuleDict({"net": cached})
    assert set(outer.state_dict()) == {f"net.{n}" for n in model.state_dict()}
    outer.load_state_dict(nn.ModuleDict({"net": toy(seed=2)}).state_dict())
    assert torch.equal(model.head.weight, toy(seed=2).head.weight)


def test_it_passes_for_the_originals_class() -> None:
    cached = fxcache.transform(toy(), ALL)
    assert isinstance(cached, ToyDiT) and isinstance(cached, CachedTransformer)
    assert cached.__class__ is ToyDiT


def test_several_models_in_one_process() -> None:
    models = [toy(seed=s) for s in range(3)]
    cached = [fxcache.transform(m, ALL) for m in models]
    alone = [fxcache.transform(m, ALL) for m in models]
    x, times = latents(5, 0), timesteps(5)
    with torch.no_grad():
        together = [[c(x[i], t) for c in cached] for i, t in enumerate(times)]
        expected = [[c(x[i], t) for i, t in enumerate(times)] for c in alone]
    for m, outputs in enumerate(expected):
        assert all(torch.equal(together[i][m], out) for i, out in enumerate(outputs))
