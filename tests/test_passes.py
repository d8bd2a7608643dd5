"""One pass at a time, and the specification that is checked after each."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache.capture.call_signature import flatten
from fxcache.capture.capture import capture
from fxcache.capture.forward_inputs import ForwardInputs
from fxcache.errors import GraphSpecError
from fxcache.ir.program import Program
from fxcache.ir.verify import verify
from fxcache.passes import PASSES
from fxcache.passes.assign_regions import assign_regions
from fxcache.passes.find_chain import find_chain
from fxcache.passes.pair_streams import pair_streams
from fxcache.passes.split_segments import split_segments
from tests.toy import ToyBlock, dual, latents, timesteps, toy


def program(model: nn.Module, config: str = "F1B1_W2M0MC0_T0O1_R0.1", **inputs: Tensor) -> Program:
    given = {"hidden_states": latents(1, 0)[0], "timestep": timesteps(1)[0], **inputs}
    bound = ForwardInputs.of(model).bind((), given)
    captured = capture(model, bound, flatten(bound, False).tensors)
    return Program(captured, fxcache.CacheConfig.from_string(config), "model", "timestep")


def dual_program() -> Program:
    return program(dual(), encoder_hidden_states=latents(1, 1)[0], extra=latents(1, 2)[0])


def test_capture_keeps_the_original_modules() -> None:
    model = toy()
    captured = program(model).capture
    assert captured.how == "symbolic"
    assert captured.graph.get_submodule("blocks.2") is model.blocks[2]
    calls = [n.target for n in captured.graph.graph.nodes if n.op == "call_module"]
    assert calls == ["embed", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "head"]


def test_the_chain_is_found_by_dataflow() -> None:
    found = find_chain(program(toy()))
    assert [b.name for b in found.chain] == [f"blocks.{i}" for i in range(4)]


def test_of_equal_chains_the_latest_is_always_the_one() -> None:
    """Two stacks side by side (DualTransformer2DModel): the choice is no matter of chance."""

    class SideBySide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = toy(seed=0), toy(seed=1)

        def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
            return self.first(hidden_states, timestep) + self.second(hidden_states, timestep)

    for _ in range(8):
        chain = find_chain(program(SideBySide())).chain
        assert [b.name for b in chain] == [f"second.blocks.{i}" for i in range(4)]


def test_streams_of_equal_shape_are_paired_by_dataflow() -> None:
    paired = pair_streams(find_chain(dual_program()))
    for block in paired.chain:
        places = {value.args[1]: block.node.args.index(carried) for value, carried in block.carries.items()}
        last = block is paired.chain[-1]  # nobody takes its encoder states
        assert places == ({1: 0} if last else {0: 1, 1: 0})  # out: encoder, hidden; in: hidden, encoder
        assert block.primary is not None and block.primary.args[1] == 1


def test_what_only_the_middle_needs_moves_into_it() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(ToyBlock(8) for _ in range(3))

        def forward(self, hidden_states: Tensor, timestep: Tensor) -> Tensor:
            temb = timestep.reshape(-1, 1, 1)
            only_middle = temb.cos()
            for i, block in enumerate(self.blocks):
                hidden_states = block(hidden_states, only_middle if i == 1 else temb)
            return hidden_states.sin()

    done = program(Model().eval(), "F1B1_W2M0MC0_T0O1_R0.1")
    for step in (find_chain, pair_streams, split_segments, assign_regions):
        done = step(done)
    region = {n.name: r for n, r in done.regions.items()}
    assert (region["blocks_0"], region["blocks_1"], region["blocks_2"]) == (0, 1, 2)
    assert region["cos"] == 1
    assert region["sin"] == 2


@pytest.mark.parametrize("fn", [1, 2, 3, 4])
@pytest.mark.parametrize("bn", [0, 1, 2])
def test_every_position_cuts_right(fn: int, bn: int) -> None:
    if fn + bn > 4:
        return
    done = dual_program()
    done = done.replace(config=fxcache.CacheConfig(fn_compute_blocks=fn, bn_compute_blocks=bn))
    for step in PASSES:
        done = step(done)
        verify(done, step.__name__)
    inside = {
        n: [str(m.target) for m in s.graph.graph.nodes if m.op == "call_module"]
        for n, s in done.stages.items()
    }
    assert [c for c in inside["front"] if "blocks" in c] == [f"blocks.{i}" for i in range(fn)]
    assert [c for c in inside["compute"] if "blocks" in c] == [f"blocks.{i}" for i in range(fn, 4 - bn)]
    assert [c for c in inside["back"] if "blocks" in c] == [f"blocks.{i}" for i in range(4 - bn, 4)]
    assert not [c for c in inside["skip"] if "blocks" in c]


def finished() -> Program:
    done = dual_program()
    for step in PASSES:
        done = step(done)
    return done


def test_verify_catches_a_chain_that_is_none() -> None:
    done = find_chain(program(toy()))
    broken = done.replace(chain=tuple(reversed(done.chain)))
    with pytest.raises(GraphSpecError, match="does not consume"):
        verify(broken, "find_chain")


def test_verify_catches_unpaired_streams() -> None:
    done = pair_streams(find_chain(dual_program()))
    block = done.chain[1]
    inputs = list(block.carries.values())
    twisted = dataclasses.replace(block, carries=dict.fromkeys(block.carries, inputs[0]))
    with pytest.raises(GraphSpecError, match="same input"):
        verify(done.replace(chain=(done.chain[0], twisted, *done.chain[2:])), "pair_streams")


def test_verify_catches_missing_metadata() -> None:
    done = find_chain(program(toy()))
    next(n for n in done.capture.graph.graph.nodes if n.op == "call_module").meta.clear()
    with pytest.raises(GraphSpecError, match="no metadata"):
        verify(done, "find_chain")


def test_verify_catches_a_node_in_the_wrong_region() -> None:
    done = program(toy())
    for step in (find_chain, pair_streams, split_segments, assign_regions):
        done = step(done)
    moved = {n: (0 if n.name == "blocks_3" else r) for n, r in done.regions.items()}
    with pytest.raises(GraphSpecError, match="runs before"):
        verify(done.replace(regions=moved), "assign_regions")


def test_verify_catches_aliasing_branch_outputs() -> None:
    done = finished()
    graph = done.stages["skip"].graph.graph
    first = graph.output_node().args[0][0]
    graph.output_node().args = ((first,) * len(done.stages["skip"].outputs),)
    with pytest.raises(GraphSpecError, match="the same tensor"):
        verify(done, "insert_conditional")


def test_verify_catches_an_output_that_is_an_input() -> None:
    done = finished()
    graph = done.stages["skip"].graph.graph
    inputs = graph.find_nodes(op="placeholder")
    graph.output_node().args = (tuple(inputs[: len(done.stages["skip"].outputs)]),)
    with pytest.raises(GraphSpecError, match="one of its inputs"):
        verify(done, "insert_conditional")


def test_verify_catches_dead_blocks() -> None:
    done = finished()
    graph = done.stages["back"].graph.graph
    graph.output_node().args = ((graph.find_nodes(op="placeholder")[0],),)
    with pytest.raises(GraphSpecError, match="nobody uses"):
        verify(done, "insert_conditional")


def test_dead_state_is_dropped() -> None:
    """With Bn = 0 the encoder stream of the last middle block never reaches the output."""
    done = program(
        dual(), "F1B0_W2M0MC0_T0O1_R0.1", encoder_hidden_states=latents(1, 1)[0], extra=latents(1, 2)[0]
    )
    for step in PASSES:
        done = step(done)
    factors = [s for s in done.state if "_factor_" in s.name]
    assert len(factors) == 1


def test_state_of_a_graph_is_what_theory_says() -> None:
    cached = fxcache.transform(toy(), "F1B0_W2M0MC0_T1O2_R0.1")
    x, t = latents(1, 0)[0], timesteps(1)[0]
    with torch.no_grad():
        cached(x, t)
    state = cached._contexts.last_state().state
    streams = sum(
        v.numel() * v.element_size() for n, v in state.items() if not n.startswith(("clock", "log"))
    )
    assert streams == x.numel() * 4 * (1 + 1 + 3)  # the sample, the front residual, and order + 1 factors
