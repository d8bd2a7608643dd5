"""`print(cached.graph)`: everything that a step does, in lines that a person reads."""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxcache
from bench.overhead import inputs, network
from fxcache.ops.cond import conditional, materialize, store
from fxcache.runtime.graph_view import CachedGraph
from tests.behaviour.zoo import find
from tests.sweep import sweep

GOLDEN = Path(__file__).parent / "golden"
CASES = (
    "FluxTransformer2DModel",
    "SD3Transformer2DModel",
    "QwenImageTransformer2DModel",
    "WanTransformer3DModel",
    "HunyuanVideoTransformer3DModel",
)


@functools.cache
def graph(case: str, config: str, scope: str = "model") -> CachedGraph:
    model, inputs = find(case).build()
    return fxcache.transform(model, config, scope=scope, example_inputs=inputs).graph


def called(printed: CachedGraph) -> Counter[str]:
    """How often each function and module but blocks is called, by what is behind the last dot of its name."""
    blocks = {b.name for b in printed.program.chain}
    names: Counter[str] = Counter()
    for stage in printed.program.stages.values():
        for node in stage.graph.graph.nodes:
            if node.op == "call_module" and str(node.target) not in blocks:
                names[str(node.target).rpartition(".")[2]] += 1
            elif node.op == "call_function" and node.target not in (conditional, materialize, store):
                text = str(node.target)
                aten = text.split(".")[1] if text.startswith("aten.") else ""
                names[aten or getattr(node.target, "__name__", text)] += 1
    return names


@pytest.mark.parametrize("scope", ["model", "list"])
@pytest.mark.parametrize("case", sweep(CASES, CASES[:1]))
def test_nothing_is_left_out_and_no_line_is_too_long(case: str, scope: str) -> None:
    printed = graph(case, "F1B0_W4M0MC3_T1O1_R0.12", scope)
    text = str(printed)
    assert max(map(len, text.splitlines())) <= 110
    expected = called(printed)
    for name in [n for n in expected if n.isdigit() or n in ("getitem", "add", "sub", "mul")]:
        expected.pop(name)  # written as names of items, and as signs; numbers are names of blocks, too
    found = {name: len(re.findall(rf"\b{re.escape(name)}\(", text)) for name in expected}
    assert found == dict(expected)
    spans = re.findall(r"\[(\d+):(\d+)\]\(", text)
    single = sum(len(re.findall(rf"self\.{re.escape(b.name)}\(", text)) for b in printed.program.chain)
    assert sum(int(end) - int(start) for start, end in spans) + single == len(printed.program.chain)


def test_every_state_tensor_is_told_and_written() -> None:
    printed = graph("FluxTransformer2DModel", "F1B0_W4M0MC3_T1O1_R0.12", "list")
    text = str(printed)
    for tensor in printed.program.state:
        name = re.sub(r".+_history", "history_", tensor.name)
        assert f"{name}" in text
    assert len(re.findall(r"^ +remember\(state\.history_\d, ", text, re.M)) == sum(
        "_history" in s.name for s in printed.program.state
    )
    assert "state.sample_0, state.previous_0 = hidden_states, residual_0" in text


def test_dynamic_sizes_have_short_names_and_shapes_stand_beside() -> None:
    text = str(graph("FluxTransformer2DModel", "F1B0_W4M0MC3_T1O1_R0.12"))
    assert "hidden_states: f32[s0, s1, 4]" in text
    assert re.search(r"x_embedder = self\.x_embedder\(hidden_states\) +# f32\[s0, s1, 32\]", text)


def test_what_the_model_would_take_anyway_is_not_printed() -> None:
    text = str(graph("FluxTransformer2DModel", "F1B0_W4M0MC3_T1O1_R0.12"))
    assert "joint_attention_kwargs" not in text
    assert "cache_check(now_0, residual_diff(residual_0, state.previous_0), state.knobs_0)" in text


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a + self.mix(b), b + self.mix(a)


class Pairs(nn.Module):
    """Blocks of two streams; from the third on these change places."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Pair() for _ in range(6))

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        a, b = hidden_states, hidden_states * timestep
        for i, block in enumerate(self.blocks):
            a, b = block(b, a) if i > 2 else block(a, b)
        return a + b


def test_blocks_that_are_not_fed_alike_are_not_joined() -> None:
    call = {"hidden_states": torch.randn(1, 4, 8), "timestep": torch.ones(1)}
    model = Pairs().requires_grad_(False)
    text = str(fxcache.transform(model, "F1B0_W1M0MC0_T0O1_R0.1", example_inputs=call).graph)
    assert "self.blocks.0(" in text
    assert "self.blocks[1:3](" in text
    assert "self.blocks[3:6](" in text


def test_flux_fits_on_a_page_and_the_readme_shows_it() -> None:
    golden = (GOLDEN / "flux_taylorseer.txt").read_text()
    assert len(golden.splitlines()) <= 40
    readme = Path(__file__).parents[2] / "README.md"
    assert golden in readme.read_text()


def test_a_model_of_57_blocks_prints_as_one_of_8() -> None:
    call = {**inputs(64, 16), "timestep": torch.ones(1)}
    config = "F1B1_W4M0MC3_T1O1_R0.12"
    text = str(fxcache.transform(network(32, 19, 38), config, example_inputs=call).graph)
    assert len(text.splitlines()) <= 40
    assert "self.single_transformer_blocks[0:37](" in text
