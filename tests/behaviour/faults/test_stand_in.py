"""S10, S16: who reads, writes, walks or replaces parts of a cached model does so to the original."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache.errors import ReplicaError
from tests.behaviour.zoo import find
from tests.sweep import sweep

from .base import EAGER, NEVER, WIDTH, Base, build, sample

SD3, FLUX = "SD3Transformer2DModel", "FluxTransformer2DModel"
INSIDE, OUTSIDE = ["to_q", "to_k"], ["proj_out", "context_embedder"]  # of blocks, and leaves themselves


class Scaled(Base):
    """Reads plain attributes, a property with a setter, a root parameter and a root buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0
        self._gain = 1.0
        self.shift = nn.Parameter(torch.ones(WIDTH))
        self.register_buffer("table", torch.ones(WIDTH))
        self.register_buffer("scratch", torch.zeros(WIDTH), persistent=False)
        self.proj_out = nn.Linear(WIDTH, WIDTH)

    @property
    def gain(self) -> float:
        return self._gain

    @gain.setter
    def gain(self, value: float) -> None:
        self._gain = value * 2

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        x = super().forward(x * self.scale + self.shift, timestep)
        return self.proj_out(x) * self.gain * self.table + self.scratch


def same(cached: Any, model: nn.Module, steps: int = 2) -> Tensor:
    """The stand-in agrees with its original, and with a model built from the original's parts."""
    result = torch.empty(0)
    with torch.no_grad():
        for call in sample(steps):
            result = model(*call)
            assert torch.equal(cached(*call), result)
    return result


def changed(change: Callable[[Any], Any]) -> None:
    """`change` done to a cached model in use is as if done to a plain one."""
    plain, model = build(Scaled), build(Scaled)
    cached = fxcache.transform(model, NEVER)
    before = same(cached, model)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        change(cached)
        torch.manual_seed(3)
        change(plain)
    after = same(cached, plain)
    assert not torch.equal(before, after)
    assert torch.equal(same(cached, model), after)


def _halve(module: nn.Module) -> None:
    with torch.no_grad():
        for child in module.modules():
            if isinstance(child, nn.Linear):
                child.weight.mul_(0.5)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "parameter": lambda m: setattr(m, "shift", nn.Parameter(torch.full((WIDTH,), 3.0), requires_grad=False)),
    "buffer": lambda m: setattr(m, "table", torch.full((WIDTH,), 3.0)),
    "register_buffer": lambda m: m.register_buffer("table", torch.full((WIDTH,), 3.0)),
    "register_parameter": lambda m: m.register_parameter("shift", nn.Parameter(torch.zeros(WIDTH))),
    "module": lambda m: setattr(m, "proj_out", nn.Identity()),
    "deep in a leaf": lambda m: setattr(m.blocks[1], "mix", nn.Identity()),
    "a leaf": lambda m: m.blocks.__setitem__(2, nn.Identity()),
    "add_module": lambda m: m.add_module("proj_out", nn.Identity()),
    "set_submodule": lambda m: m.set_submodule("blocks.2.mix", nn.Identity()),
    "table": lambda m: m._modules.__setitem__("proj_out", nn.Identity()),
    "walk": _halve,
    "apply": lambda m: m.apply(lambda c: c.weight.mul_(2) if isinstance(c, nn.Linear) else None),
    "_apply": lambda m: m._apply(lambda t: t * 2),
    "load_state_dict": lambda m: m.load_state_dict({k: v * 0.5 for k, v in m.state_dict().items()}),
    "assign": lambda m: m.load_state_dict({k: v * 0.5 for k, v in m.state_dict().items()}, assign=True),
    "named parameters": lambda m: [p.mul_(0.5) for _, p in m.named_parameters()],
    "functional swap": lambda m: m._parameters.__setitem__("shift", nn.Parameter(torch.zeros(WIDTH))),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_s10_s16_a_change_to_the_cached_model_is_one_to_the_original(change: Callable[[Any], Any]) -> None:
    changed(change)


def test_s10_writes_and_deletes_go_where_reads_come_from() -> None:
    model = build(Scaled)
    cached = fxcache.transform(model, NEVER)
    cached.scale = 2
    assert model.scale == 2 and "scale" not in cached.__dict__
    cached.note = "new"
    assert model.note == "new" and cached.note == "new"
    del cached.note
    assert not hasattr(model, "note") and not hasattr(cached, "note")
    with pytest.raises(AttributeError, match="note"):
        del cached.note
    with pytest.raises(AttributeError, match="note"):
        cached.note  # noqa: B018
    cached.training = True
    assert model.training
    assert {"gain", "proj_out", "blocks", "stats", "original"} <= set(dir(cached))


def test_s10_transform_does_not_change_the_original() -> None:
    model = build(Scaled)
    before = {m: dict(vars(m)) for m in model.modules()}
    tables = {
        m: {k: copy.copy(v) for k, v in vars(m).items() if isinstance(v, dict)} for m in model.modules()
    }
    cached = fxcache.transform(model, NEVER)
    same(cached, model)
    for module, attributes in before.items():
        assert vars(module).keys() == attributes.keys()
        assert all(vars(module)[k] is v for k, v in attributes.items())
        assert all(vars(module)[k] == v for k, v in tables[module].items())


def test_s16_names_are_the_originals() -> None:
    model = build(Scaled)
    cached = fxcache.transform(model, NEVER)
    for walk in ("named_modules", "named_children", "named_parameters", "named_buffers"):
        assert [n for n, _ in getattr(cached, walk)()] == [n for n, _ in getattr(model, walk)()]
    assert dict(cached.named_modules())[""] is cached and next(cached.modules()) is cached
    assert list(cached.modules())[1:] == list(model.modules())[1:]
    assert list(cached.children()) == list(model.children())
    assert cached.get_submodule("blocks.1") is model.blocks[1] and cached.get_submodule("") is cached
    assert cached.get_parameter("blocks.1.mix.weight") is model.blocks[1].mix.weight
    assert list(cached.state_dict()) == list(model.state_dict())
    assert "scratch" in cached._non_persistent_buffers_set
    outer = nn.ModuleDict({"net": cached})
    assert list(outer.state_dict()) == [f"net.{n}" for n in model.state_dict()]
    assert [n for n, _ in outer.named_modules()][2:] == [f"net.{n}" for n, _ in model.named_modules()][1:]
    outer.load_state_dict(nn.ModuleDict({"net": build(Scaled, seed=4)}).state_dict())
    same(cached, build(Scaled, seed=4))
    missing = outer.load_state_dict({}, strict=False).missing_keys
    assert missing == list(outer.state_dict())


@pytest.mark.parametrize(
    "move", sweep(("half", "bfloat16", "double", "float", "cpu", "eval", "train"), ("half", "cpu", "train"))
)
def test_s16_the_originals_own_methods_win(move: str) -> None:
    class Careful(Scaled):
        def __init__(self) -> None:
            super().__init__()
            self.moved: list[str] = []

    def override(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.moved.append(move)
        return getattr(nn.Module, move)(self, *args, **kwargs)

    setattr(Careful, move, override)
    model = build(Careful)
    cached = fxcache.transform(model, NEVER)
    model.moved.clear()
    assert getattr(cached, move)() is cached
    assert model.moved == [move]


def test_s16_dtype_gradients_and_emptying() -> None:
    model = build(Scaled)
    cached = fxcache.transform(model, NEVER)
    assert cached.requires_grad_(True) is cached and all(p.requires_grad for p in model.parameters())
    assert cached.requires_grad_(False) is cached
    assert cached.to(torch.float64) is cached and model.shift.dtype == torch.float64
    with torch.no_grad():
        calls = [(x.double(), t) for x, t in sample()]
        assert all(torch.equal(cached(*c), model(*c)) for c in calls)
    assert (
        cached.to_empty(device="meta") is cached
        and model.shift.is_meta
        and model.blocks[0].mix.weight.is_meta
    )


def test_s16_data_parallel_is_refused() -> None:
    with pytest.raises(ReplicaError, match="one process for each device"):
        fxcache.transform(build(Base), NEVER)._replicate_for_data_parallel()


def test_s16_a_class_may_wrap_the_call_of_its_forward() -> None:
    class Doubling(Base):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs) * 2

    model = build(Doubling)
    cached = fxcache.transform(model, EAGER)
    calls = sample()
    with torch.no_grad():
        assert torch.equal(cached(*calls[0]), model(*calls[0]))
        cached(*calls[1])
    assert cached.stats()["default"].hits == (False, True)


def test_s16_functional_call() -> None:
    model = build(Scaled)
    cached = fxcache.transform(model, NEVER)
    other = dict(build(Scaled, seed=5).named_parameters())
    with torch.no_grad():
        for call in sample(2):
            expected = torch.func.functional_call(model, other, call)
            assert torch.equal(torch.func.functional_call(cached, other, call), expected)
            assert torch.equal(cached(*call), model(*call))


def test_s16_copies_of_the_object() -> None:
    model = build(Scaled)
    cached = fxcache.transform(model, NEVER)
    other = copy.copy(cached)
    other.scale = 3.0
    assert model.scale == 1.0 and other.original is not model
    assert other.proj_out is model.proj_out  # as a shallow copy of the model
    same(other, other.original)
    same(cached, model)


# ---------------------------------------------------------------------- the tools that people use


def case(name: str = "SD3Transformer2DModel") -> tuple[Any, dict[str, Any]]:
    model, inputs = find(name).build()
    return model, {**inputs, "return_dict": False}


def as_plain(tool: Callable[[Any], Any], name: str = "SD3Transformer2DModel", differs: bool = True) -> Any:
    """A tool does to a cached model in use what it does to the plain one; returns the cached model."""
    (plain, inputs), (model, _) = case(name), case(name)
    cached = fxcache.transform(model, NEVER)
    with torch.no_grad():
        before = cached(**inputs)[0]
        torch.manual_seed(0)
        tool(plain)
        torch.manual_seed(0)
        tool(cached)
        expected = plain(**inputs)[0]
        for _ in range(2):
            assert torch.equal(cached(**inputs)[0], expected)
        assert differs is not torch.equal(before, expected)
    assert list(cached.state_dict()) == list(plain.state_dict())
    return cached


@pytest.mark.parametrize("name", sweep((SD3, FLUX), (FLUX,)))
def test_s16_layerwise_casting_by_function(name: str) -> None:
    from diffusers.hooks import apply_layerwise_casting

    def cast(model: Any) -> None:
        apply_layerwise_casting(model, torch.float8_e4m3fn, torch.float32, skip_modules_pattern=["proj_out"])

    cached = as_plain(cast, name)
    assert cached.proj_out.weight.dtype == torch.float32


def test_s16_replaced_layers() -> None:
    class Double(nn.Module):
        def __init__(self, inner: nn.Linear) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) * 1.5

    def quantize(model: nn.Module, skip: tuple[str, ...] = ("proj_out", "context_embedder")) -> None:
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and not any(s in name for s in skip):
                parent, _, last = name.rpartition(".")
                setattr(model.get_submodule(parent), last, Double(module))

    cached = as_plain(quantize)
    assert isinstance(cached.proj_out, nn.Linear)

    def replace(model: Any) -> None:
        model.proj_out = Double(model.proj_out)

    as_plain(replace)


def test_s16_torchao_quantizer() -> None:
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    as_plain(lambda model: quantize_(model, Int8WeightOnlyConfig()))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
def test_s16_dynamic_quantization() -> None:
    def quantize(model: Any) -> None:
        torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8, inplace=True)

    (plain, inputs), (model, _) = case(), case()
    cached = fxcache.transform(model, NEVER)
    with torch.no_grad():
        cached(**inputs)
        quantize(plain)
        quantize(cached)
        assert torch.equal(cached(**inputs)[0], plain(**inputs)[0])


@pytest.mark.parametrize("append", [True, False])
def test_s16_accelerate_hooks_put_on_the_original_before(append: bool) -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    class Adding(ModelHook):
        def __init__(self, value: int) -> None:
            self.value = value

        def post_forward(self, module: nn.Module, output: Tensor) -> Tensor:
            return output + self.value

    plain = add_hook_to_module(build(Base), Adding(1))
    model = add_hook_to_module(build(Base), Adding(1))
    cached = fxcache.transform(model, NEVER)
    same(cached, plain)
    assert cached._hf_hook is model._hf_hook  # pipelines look for the device there
    add_hook_to_module(plain, Adding(10), append=append)
    add_hook_to_module(cached, Adding(10), append=append)
    same(cached, plain)
    remove_hook_from_module(cached, recurse=True)
    same(cached, build(Base))
    assert not hasattr(cached, "_hf_hook") and not hasattr(model, "_hf_hook")


@pytest.mark.parametrize("targets", sweep((INSIDE, OUTSIDE), (INSIDE,)))
def test_s16_peft_injection(targets: list[str]) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False)

    def inject(model: Any) -> None:
        inject_adapter_in_model(config, model)
        model.eval().requires_grad_(False)

    as_plain(inject)


def test_s16_set_module_tensor() -> None:
    from accelerate.utils import set_module_tensor_to_device

    def put(model: Any) -> None:
        for name in ("proj_out.weight", "transformer_blocks.1.attn.to_q.weight"):
            value = dict(model.named_parameters())[name] * 0.5
            set_module_tensor_to_device(model, name, "cpu", value=value)

    as_plain(put)


@pytest.mark.parametrize("name", sweep((SD3, "WanTransformer3DModel"), (SD3,)))
def test_s16_sequential_offload_after_a_call(name: str) -> None:
    from accelerate import cpu_offload
    from accelerate.hooks import remove_hook_from_module

    cached = as_plain(lambda model: cpu_offload(model, torch.device("cpu")), name, differs=False)
    assert cached.proj_out.weight.is_meta
    remove_hook_from_module(cached, recurse=True)
    assert not cached.proj_out.weight.is_meta
    _, inputs = case(name)
    with torch.no_grad():
        assert torch.equal(cached(**inputs)[0], cached.original(**inputs)[0])


@pytest.mark.parametrize("kind", sweep(("block_level", "leaf_level"), ("leaf_level",)))
def test_s16_group_offloading_by_function(kind: str) -> None:
    from diffusers.hooks import apply_group_offloading

    cpu = torch.device("cpu")

    def offload(model: Any) -> None:
        apply_group_offloading(model, cpu, cpu, offload_type=kind, num_blocks_per_group=1)

    as_plain(offload, "WanTransformer3DModel", differs=False)


def test_s16_save_pretrained(tmp_path: Any) -> None:
    cached = as_plain(lambda m: [p.mul_(0.5) for p in m.parameters()])
    cached.save_pretrained(tmp_path)
    again = type(cached.original).from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(again[name], value) for name, value in cached.state_dict().items())


def test_s16_a_capture_of_a_module_that_holds_a_cached_one() -> None:
    cached = fxcache.transform(build(Scaled), NEVER)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = cached

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return self.net(x, timestep) + 1

    outer = Outer()
    with torch.no_grad():
        for call in sample(2):
            assert torch.equal(outer(*call), cached.original(*call) + 1)
