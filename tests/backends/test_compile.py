"""Compiled equals eager: same hits, same results, no graph break, no recompilation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies
from torch import Tensor, nn
from torch._dynamo.utils import counters

import fxcache
from fxcache import CachedTransformer
from fxcache.backends.host.stage_fusion import host_path
from fxcache.backends.inductor import Inductor, Mode
from fxcache.errors import BackendError, CompilationError
from fxcache.ops import cond
from tests.behaviour.zoo import ZooCase, find
from tests.behaviour.zoo.case import Blueprint
from tests.behaviour.zoo.draw import Draw
from tests.strategies import configs
from tests.sweep import sweep
from tests.toy import ToyBlock, latents, rotary, timesteps, toy

STEPS = 9
SETTING = "F1B1_W3M0MC2_T1O1_R1000"
MODES = ("fused", "single", "staged")


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def run(model: nn.Module, seed: int = 0, batch: int = 2, tokens: int = 5) -> list[Tensor]:
    with torch.no_grad():
        return [
            model(x, t)
            for x, t in zip(latents(STEPS, seed, batch, tokens), timesteps(STEPS, batch), strict=True)
        ]


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def assert_alike(compiled: CachedTransformer, eager: CachedTransformer, **kind: int) -> None:
    for a, b in zip(run(compiled, **kind), run(eager, **kind), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert compiled.stats()["default"].hits == eager.stats()["default"].hits
    assert eager.stats().cached > 0


@pytest.mark.parametrize(("mode", "expected"), [("single", 1), ("fused", 3), ("staged", 3)])
def test_graphs_breaks_and_recompilations(mode: str, expected: int) -> None:
    eager = fxcache.transform(toy(), SETTING)
    compiled = fxcache.compile(eager, mode=mode)  # type: ignore[arg-type]
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_alike(compiled, eager, seed=0)  # hits and misses
        assert_alike(compiled, eager, seed=1)  # a second trajectory
        compiled.reset()
        eager.reset()
        assert_alike(compiled, eager, seed=2)
        with compiled.cache_context("uncond"), eager.cache_context("uncond"):
            run(compiled, 3), run(eager, 3)
    assert compiled.stats()["uncond"].hits == eager.stats()["uncond"].hits
    assert graphs() == expected
    assert not counters["graph_break"]


def test_the_single_graph_goes_to_the_backend_that_was_named() -> None:
    seen: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        seen.append(graph)
        return graph.forward

    eager = fxcache.transform(toy(), SETTING)
    assert_alike(fxcache.compile(eager, mode="single", backend=backend), eager)
    assert len(seen) == 1


def test_the_single_graph_where_branches_may_not_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with torch 2.11: they return the new state, and the graph writes it."""
    monkeypatch.setattr(cond, "BRANCHES_MAY_WRITE", False)
    eager = fxcache.transform(toy(), SETTING)
    compiled = fxcache.compile(eager, mode="single", backend="aot_eager", dynamic=False)
    assert_alike(compiled, eager)
    assert_alike(compiled, eager, seed=1)
    left, wanted = (model._contexts.last_state().state for model in (compiled, eager))
    assert left.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(left[name], value, rtol=1e-4, atol=1e-4, equal_nan=True)


DEEP = 24  # blocks: the head is so small a part that a cached step is started before the decision


@pytest.mark.parametrize("mode", sweep(("fused", "staged"), ("fused",)))
def test_a_step_that_was_started_as_a_hit_and_was_none_leaves_what_a_miss_leaves(mode: str) -> None:
    """Where the head is light, a cached step is one graph; what it wrote, a miss writes anew."""
    config = "F1B0_W2M0MC3_T1O1_R0.7"
    eager = fxcache.transform(toy(DEEP), config)
    compiled = fxcache.compile(eager, mode=mode)  # type: ignore[arg-type]
    for x, t in zip(latents(STEPS, 0, 2), timesteps(STEPS, 2), strict=True):
        with torch.no_grad():
            torch.testing.assert_close(compiled(x, t), eager(x, t), rtol=1e-4, atol=1e-4)
        states = [c._contexts.last_state().state for c in (compiled, eager)]
        for name, value in states[1].items():
            torch.testing.assert_close(states[0][name], value, rtol=1e-4, atol=1e-4, equal_nan=True)
    hits = eager.stats()["default"].hits
    assert True in hits[2:] and False in hits[2:]  # the diff decided both ways
    path = host_path(compiled.graph.program)
    assert path.speculated is not None and path.decided_first().speculated is None
    assert not counters["graph_break"]
    if mode == "fused":
        assert graphs() == 2


@pytest.mark.parametrize(
    ("config", "blocks", "expected"),
    [
        ("F1B0_W2M0MC3_T0O1_R0.05", DEEP, True),
        ("F1B4_W2M0MC3_T0O1_R0.05", DEEP, False),  # back blocks, which a miss would run twice
        ("F1B0_W2M0MC3_T0O1_R0.05", 4, False),  # a heavy head
        ("F1B0_W2M0MC3_T0O1_R0", DEEP, False),  # never a hit
    ],
)
def test_a_hit_is_started_early_only_where_that_pays(config: str, blocks: int, expected: bool) -> None:
    cached = fxcache.transform(toy(blocks), config)
    run(cached)
    assert (host_path(cached.graph.program).speculated is not None) == expected


@pytest.mark.parametrize(
    "mode", [m if m == "fused" else pytest.param(m, marks=pytest.mark.full) for m in MODES]
)
def test_half_precision_compiled_is_as_near_the_truth_as_eager(mode: Mode) -> None:
    """The compiler rounds to bfloat16 in other places than eager does."""
    times = [torch.full((2,), float(STEPS - i)) for i in range(STEPS)]  # these are exact in bfloat16

    def draw(model: nn.Module, dtype: torch.dtype) -> list[Tensor]:
        with torch.no_grad():
            return [model(x.to(dtype), t) for x, t in zip(latents(STEPS, 0, 2), times, strict=True)]

    truth = draw(fxcache.transform(toy(), SETTING), torch.float32)
    eager = fxcache.transform(toy().bfloat16(), SETTING)
    compiled = fxcache.compile(eager, mode=mode)
    found = {m: draw(m, torch.bfloat16) for m in (eager, compiled)}
    errors = [
        max((a.float() - b).abs().max().item() for a, b in zip(found[m], truth, strict=True))
        for m in (eager, compiled)
    ]
    assert found[compiled][0].dtype == torch.bfloat16
    assert errors[1] < 2 * errors[0]
    assert compiled.stats()["default"].hits == eager.stats()["default"].hits


@pytest.mark.parametrize("mode", sweep(MODES, ("fused",)))
def test_open_sizes_compile_once(mode: Mode) -> None:
    """Also from a batch of two, which is the number of rows of the log."""
    eager = fxcache.transform(toy(), SETTING)
    compiled = fxcache.compile(eager, mode=mode, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch, tokens in ((2, 5), (3, 6), (4, 7)):
            assert_alike(compiled, eager, batch=batch, tokens=tokens)


@pytest.mark.parametrize("dynamic", sweep((False, True), (False,)))
def test_what_a_conditional_does_not_take_as_it_is(dynamic: bool) -> None:
    """Transposed operands, which TorchInductor would read as if they were not, and complex ones."""
    eager = fxcache.transform(rotary(), SETTING)
    compiled = fxcache.compile(eager, mode="single", dynamic=dynamic)
    for batch, tokens in ((2, 10), (3, 14)) if dynamic else ((2, 10),):
        assert_alike(compiled, eager, batch=batch, tokens=tokens)
    assert graphs() == 1


def test_sizes_that_the_compiler_opens_by_itself() -> None:
    """`dynamic=None`: the second size compiles once more, and no other does."""
    eager = fxcache.transform(toy(), SETTING)
    compiled = fxcache.compile(eager, mode="single")
    for batch, tokens in ((2, 5), (3, 6), (4, 7), (5, 9)):
        assert_alike(compiled, eager, batch=batch, tokens=tokens)
    assert graphs() == 2


@pytest.mark.full
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs(), mode=strategies.sampled_from(MODES), blocks=strategies.sampled_from((4, DEEP)))
def test_any_config_compiled_equals_eager(config: fxcache.CacheConfig, mode: Mode, blocks: int) -> None:
    torch._dynamo.reset()
    eager = fxcache.transform(toy(blocks), config)
    compiled = fxcache.compile(eager, mode=mode)
    for a, b in zip(run(compiled), run(eager), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert compiled.stats()["default"].hits == eager.stats()["default"].hits


def test_the_staged_mode_compiles_no_more_for_a_deeper_model() -> None:
    counts = []
    for depth in (4, 12):
        torch._dynamo.reset()
        counters.clear()
        eager = fxcache.transform(toy(blocks=depth), SETTING)
        assert_alike(fxcache.compile(eager, mode="staged"), eager)
        counts.append((graphs(), counters["stats"]["calls_captured"]))
    assert counts[0] == counts[1]


def test_a_hit_copies_no_state() -> None:
    """The replaying branch writes the clock, the log and the (small) sample, and nothing that is cached."""
    cached = fxcache.transform(toy(), SETTING)
    run(cached)
    state = cached._contexts.last_state().state
    kept = {name: t.clone() for name, t in state.items()}
    addresses = {name: t.data_ptr() for name, t in state.items()}
    versions = {name: t._version for name, t in state.items()}
    with torch.no_grad():
        cached(latents(1, 0, 2)[0], torch.full((2,), 1.0))
    hits = cached.stats()["default"].hits
    assert hits[-1]
    for name, tensor in state.items():
        assert tensor.data_ptr() == addresses[name]
        if not name.startswith(("clock_", "log_", "sample_")):
            assert tensor._version == versions[name], f"a hit wrote '{name}'"
            assert torch.equal(tensor, kept[name])
    skip = cached.graph.program.stages["skip"].graph.graph
    stored = [n.args[0].name for n in skip.nodes if getattr(n.target, "__name__", "") == "store"]
    assert stored == ["sample_0"]


def test_requests_that_cannot_work() -> None:
    cached = fxcache.transform(toy(), SETTING)
    with pytest.raises(BackendError, match="fused, single, staged"):
        fxcache.compile(cached, mode="fastest")  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="inductor"):
        fxcache.compile(cached, backend="xla")
    with pytest.raises(BackendError, match=r"fxcache\.transform"):
        fxcache.compile(toy())  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="CUDA"):
            fxcache.compile(cached, mode="reduce-overhead")


class ReadingBlock(ToyBlock):
    """Reads a value of a tensor, which breaks a graph."""

    def forward(self, hidden_states: Tensor, temb: Tensor) -> Tensor:
        return super().forward(hidden_states, temb) * (1.0 if float(hidden_states.sum()) > 0 else 0.5)


def test_what_does_not_compile_whole_says_why_and_compiles_with_breaks() -> None:
    model = toy()
    model.blocks = nn.ModuleList(ReadingBlock(8) for _ in range(4))
    eager = fxcache.transform(model.requires_grad_(False), SETTING)
    for mode, advice in (("single", 'mode="fused"'), ("fused", "fullgraph=False")):
        with pytest.raises(CompilationError, match=rf"(?s)ToyDiT .*mode='{mode}'.*in forward.*{advice}"):
            run(fxcache.compile(eager, mode=mode))  # type: ignore[arg-type]
    torch._dynamo.reset()
    assert_alike(eager.lowered(Inductor("fused", None, {"backend": "eager", "fullgraph": False})), eager)
    with pytest.raises(BackendError, match="staged"):
        fxcache.compile(eager, mode="single", fullgraph=False)


SHAPES = (
    "FluxTransformer2DModel",
    "SD3Transformer2DModel",
    "QwenImageTransformer2DModel",
    "WanTransformer3DModel",
    "PixArtTransformer2DModel",
    "HunyuanVideoTransformer3DModel",
)


def larger(case: ZooCase) -> ZooCase:
    """The case three times as deep and four times as wide."""
    deeper = {"num_layers": 3, "num_single_layers": 3}
    wider = {"num_attention_heads": 4, "caption_projection_dim": 4, "cross_attention_dim": 4}
    times = {**deeper, **wider}

    def build(draw: Draw) -> Blueprint:
        blueprint = case.build_config(draw)
        config = {k: v * times[k] if k in times else v for k, v in blueprint.config.items()}
        return blueprint._replace(config=config)

    return dataclasses.replace(case, build_config=build)


def assert_a_real_structure_compiles(case: ZooCase, mode: str, config: str) -> None:
    model, inputs = case.build()
    inputs = {**inputs, "return_dict": False}
    eager = fxcache.transform(model, config)
    compiled = fxcache.compile(eager, mode=mode)  # type: ignore[arg-type]
    (time,) = case.timestep_names
    for seed in range(2):
        # A block compiled by itself compiles once for each memory layout in which the chain passes tensors.
        final = mode != "staged" or seed > 0
        with torch._dynamo.config.patch(error_on_recompile=final), torch.no_grad():
            for i in range(6):
                t = inputs[time]
                t = torch.full_like(t, 0.9 - i / 10 if t.is_floating_point() else 900 - 10 * i)
                call = {**inputs, time: t, "hidden_states": case.fresh_inputs(seed)["hidden_states"]}
                a, b = compiled(**call)[0], eager(**call)[0]
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
            assert compiled.stats()["default"].hits == eager.stats()["default"].hits
    if mode == "single":
        assert graphs() == 1
    assert not counters["graph_break"]


@pytest.mark.full
def test_a_flux_compiles_with_nothing_but_its_head_behind_the_middle() -> None:
    """TorchInductor cannot fuse the writes of the factors with the layer norm of the head."""
    assert_a_real_structure_compiles(find("FluxTransformer2DModel"), "fused", "F1B0_W2M0MC2_T1O1_R1000")


@pytest.mark.full
@pytest.mark.parametrize("config", ["F1B1_W2M0MC2_T1O1_R1000", "F1B0_W2M0MC2_T1O1_R1000"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SHAPES)
def test_real_structures(name: str, mode: str, config: str) -> None:
    assert_a_real_structure_compiles(find(name), mode, config)


@pytest.mark.full
@pytest.mark.parametrize("mode", ["single", "fused"])
@pytest.mark.parametrize("name", SHAPES)
def test_larger_structures(name: str, mode: str) -> None:
    assert_a_real_structure_compiles(larger(find(name)), mode, "F2B1_W2M0MC2_T1O1_R1000")


@pytest.mark.full
@pytest.mark.parametrize("mode", ["single", "fused"])
@pytest.mark.parametrize("name", SHAPES)
def test_real_structures_at_open_sizes(name: str, mode: Mode) -> None:
    """Another resolution or batch of the same model needs no compilation but where the compiler's own code
    changes with size: TorchInductor sums a mean of more than 4096 elements differently."""
    case = find(name)
    model, inputs = case.build()
    assert case.resize is not None
    eager = fxcache.transform(model, "F1B0_W2M0MC2_T1O1_R1000")
    compiled = fxcache.compile(eager, mode=mode, dynamic=True)
    (time,) = case.timestep_names
    resized = case.resize(inputs)
    made = []
    with torch.no_grad():
        for sized in (inputs, resized, inputs):
            for i in range(5):
                t = sized[time]
                t = torch.full_like(t, 0.9 - i / 10 if t.is_floating_point() else 900 - 10 * i)
                call = {**sized, time: t, "return_dict": False}
                torch.testing.assert_close(compiled(**call)[0], eager(**call)[0], rtol=1e-4, atol=1e-4)
            assert compiled.stats()["default"].hits == eager.stats()["default"].hits
            made.append(graphs())
    first, second = (
        eager.specialization_for({**sized, "return_dict": False})[0] for sized in (inputs, resized)
    )
    if first is second:
        assert made[1] - made[0] <= 1  # else the model itself takes another path at that size
    assert made[2] == made[1]
    assert not counters["graph_break"]
