"""`mode="reduce-overhead"`: what CUDA graphs ask of the state, as far as a machine without CUDA can tell.

With CUDA the last test records and replays for real.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor.output_code import CompiledFxGraph

import fxcache
from fxcache import CachedTransformer
from fxcache.backends.cudagraph_state_pool import with_pooled_state
from fxcache.backends.host.dispatch import Runner
from fxcache.ir.program import Program
from tests.toy import ToyBlock, ToyDiT, latents, timesteps, toy

STEPS = 6
SETTING = "F1B1_W2M0MC2_T1O1_R1000"


def draw(model: CachedTransformer, seed: int) -> list[Tensor]:
    with torch.no_grad():
        return [model(x, t) for x, t in zip(latents(STEPS, seed), timesteps(STEPS), strict=True)]


def addresses(model: CachedTransformer) -> dict[str, int]:
    return {name: t.data_ptr() for name, t in model._contexts.last_state().state.items()}


def with_seats(program: Program) -> Runner:
    """The graph as it is, over states that keep their addresses."""
    assert program.graph is not None
    return with_pooled_state(program.graph.forward, len(program.capture.inputs))


def test_a_later_trajectory_has_the_memory_of_the_one_before() -> None:
    eager = fxcache.transform(toy(), SETTING)
    cached = eager.lowered(with_seats)
    found = []
    for seed in range(3):
        for a, b in zip(draw(cached, seed), draw(eager, seed), strict=True):
            assert torch.equal(a, b)
        found.append(addresses(cached))
        if seed == 1:
            cached.reset()
        else:
            cached._reset_stateful_cache()
            assert cached.stats()["default"].hits == eager.stats()["default"].hits  # the record is whole
    assert found[0] == found[1] == found[2]


def test_trajectories_at_the_same_time_have_memory_of_their_own() -> None:
    eager = fxcache.transform(toy(), SETTING)
    cached = eager.lowered(with_seats)
    names = ("cond", "uncond")
    with torch.no_grad():
        for i, t in enumerate(timesteps(STEPS)):
            for seed, name in enumerate(names):
                x = latents(STEPS, seed)[i]
                with cached.cache_context(name), eager.cache_context(name):
                    assert torch.equal(cached(x, t), eager(x, t))
    found = []
    for name in names:
        with cached.cache_context(name):
            found.append(set(addresses(cached).values()))
    assert not found[0] & found[1]


class TwoLists(ToyDiT):
    """Blocks in two lists, which decide apart."""

    def __init__(self) -> None:
        super().__init__()
        self.more_blocks = nn.ModuleList(ToyBlock(8) for _ in range(4))

    def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
        hidden_states = self.embed(hidden_states)
        temb = torch.sin(timestep).reshape(-1, 1, 1)
        for block in (*self.blocks, *self.more_blocks):
            hidden_states = block(hidden_states, temb)
        return self.head(hidden_states)


def two_lists(device: str = "cpu") -> tuple[CachedTransformer, list[tuple[Tensor, Tensor]]]:
    """A model with two decisions, and the calls of two trajectories."""
    torch.manual_seed(0)
    model = TwoLists().eval().requires_grad_(False).to(device)
    calls = [c for seed in range(2) for c in zip(latents(STEPS, seed), timesteps(STEPS), strict=True)]
    return fxcache.transform(model, SETTING, scope="list"), [(x.to(device), t.to(device)) for x, t in calls]


def test_compiled_stages_write_to_nothing_that_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch leaves a stage out of CUDA graphs, with a line in its log, where it writes to anything else."""
    written: list[tuple[set[int], set[int]]] = []
    finish = CompiledFxGraph.post_compile

    def watch(self: CompiledFxGraph, inputs: Any, constants: Any, settings: Any) -> None:
        written.append((set(self.mutated_input_idxs), set(settings["static_input_idxs"])))
        finish(self, inputs, constants, settings)

    monkeypatch.setattr(CompiledFxGraph, "post_compile", watch)
    eager, calls = two_lists()
    with monkeypatch.context() as pretend:
        pretend.setattr(torch.cuda, "is_available", lambda: True)
        compiled = fxcache.compile(eager, mode="reduce-overhead")
    with torch.no_grad():
        for call in calls:
            torch.testing.assert_close(compiled(*call), eager(*call), rtol=1e-4, atol=1e-4)
    assert compiled.stats()["default"].hits == eager.stats()["default"].hits
    assert len(written) == 5  # a front, and for each list a hit and a miss
    assert any(mutated for mutated, _ in written)
    assert all(mutated <= static for mutated, static in written)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_every_stage_is_recorded_and_replayed() -> None:
    counters.clear()
    eager, calls = two_lists("cuda")
    compiled = fxcache.compile(eager, mode="reduce-overhead")
    results = []
    with torch.no_grad():
        for _ in range(3):  # torch warms up, records, replays
            for call in calls:
                results.append(compiled(*call))
                torch.testing.assert_close(results[-1], eager(*call), rtol=1e-4, atol=1e-4)
            compiled._reset_stateful_cache()
            eager._reset_stateful_cache()
    assert compiled.stats()["default"].hits == eager.stats()["default"].hits
    assert len({r.data_ptr() for r in results}) == len(results)  # no replay overwrites what was given
    assert not counters["inductor"]["cudagraph_skips"]
