"""One pass at a time, and the specification that is checked after each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache.capture.call_signature import flatten
from fxcache.capture.capture import capture
from fxcache.capture.forward_inputs import ForwardInputs
from fxcache.errors import GraphSpecError
from fxcache.ir.program import Program
from fxcache.ir.ranks import RankGroup
from fxcache.ir.verify import verify
from fxcache.passes import PASSES, Pass, run_passes
from fxcache.passes.assign_regions import assign_regions
from fxcache.passes.find_chain import find_chain
from fxcache.passes.insert_agreement import insert_agreement
from fxcache.passes.insert_cache_check import insert_cache_check
from fxcache.passes.insert_clock import insert_clock
from fxcache.passes.insert_conditional import insert_conditional
from fxcache.passes.insert_forecast import insert_forecast
from fxcache.passes.measure_signal import measure_signal
from fxcache.passes.pair_streams import pair_streams
from fxcache.passes.partition import partition
from fxcache.passes.split_segments import split_segments
from tests.toy import ToyBlock, dual, latents, timesteps, toy


def program(model: nn.Module, config: str = "F1B1_W2M0MC0_T0O1_R0.1", **inputs: Tensor) -> Program:
    given = {"hidden_states": latents(1, 0)[0], "timestep": timesteps(1)[0], **inputs}
    bound = ForwardInputs.of(model).bind((), given)
    captured = capture(model, bound, flatten(bound, False).tensors)
    return Program(captured, fxcache.CacheConfig.from_string(config), "model", "timestep")


def dual_program() -> Program:
    return program(dual(), encoder_hidden_states=latents(1, 1)[0], extra=latents(1, 2)[0])


def check(done: Program, after: Callable[[Program], Program]) -> None:
    """Verify `done` as what `after` returned."""
    step = next(p for p in PASSES if p.run is after)
    verify(done, step.ensures, after.__name__)


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


@pytest.mark.parametrize(("fn", "bn"), [(fn, bn) for fn in (1, 2, 3, 4) for bn in (0, 1, 2) if fn + bn <= 4])
def test_every_position_cuts_right(fn: int, bn: int) -> None:
    done = dual_program()
    done = done.replace(config=fxcache.CacheConfig(fn_compute_blocks=fn, bn_compute_blocks=bn))
    for step in PASSES:
        done = step(done)
    inside = {
        n: [str(m.target) for m in s.graph.graph.nodes if m.op == "call_module"]
        for n, s in done.stages.items()
    }
    assert [c for c in inside["front"] if "blocks" in c] == [f"blocks.{i}" for i in range(fn)]
    assert [c for c in inside["compute"] if "blocks" in c] == [f"blocks.{i}" for i in range(fn, 4 - bn)]
    assert [c for c in inside["back"] if "blocks" in c] == [f"blocks.{i}" for i in range(4 - bn, 4)]
    assert not [c for c in inside["skip"] if "blocks" in c]


def finished() -> Program:
    return run_passes(dual_program())


def until(last: Callable[[Program], Program]) -> Program:
    """The program that the pass `last` returns."""
    done = dual_program()
    for step in PASSES:
        done = step(done)
        if step.run is last:
            return done
    raise AssertionError(last)


def swapped_blocks(done: Program) -> Program:
    return done.replace(chain=done.chain[::-1])


def without_a_block(done: Program) -> Program:
    segment = done.segments[0]
    return done.replace(segments=(dataclasses.replace(segment, blocks=segment.blocks[1:]),))


def without_primary(done: Program) -> Program:
    return done.replace(chain=(*done.chain[:-1], dataclasses.replace(done.chain[-1], primary=None)))


def middle_in_front(done: Program) -> Program:
    return done.replace(regions=dict.fromkeys(done.regions, 0))


def incomplete_middle(done: Program) -> Program:
    assert done.partition is not None
    done.partition.middles[0].compute.outputs.clear()
    return done


def without_a_step(done: Program) -> Program:
    assert done.partition is not None
    del done.partition.trunks[0].builder.outputs["now_0"]
    return done


def forgetful(done: Program) -> Program:
    return done.replace(state=tuple(s for s in done.state if s.name != "previous_0"))


def undecided(done: Program) -> Program:
    assert done.partition is not None
    del done.partition.trunks[0].builder.outputs["hit_0"]
    return done


def without_a_replay(done: Program) -> Program:
    assert done.partition is not None
    done.partition.middles[0].skip.outputs.clear()
    return done


def selfish(done: Program) -> Program:
    return done.replace(groups=(RankGroup("0", (0, 1), "parts", "given"),))


def other_branch(done: Program) -> Program:
    skip = done.stages["skip"]
    return done.replace(stages={**done.stages, "skip": dataclasses.replace(skip, inputs=())})


BROKEN = (
    (find_chain, swapped_blocks),
    (pair_streams, without_primary),
    (split_segments, without_a_block),
    (assign_regions, middle_in_front),
    (partition, incomplete_middle),
    (insert_clock, without_a_step),
    (measure_signal, forgetful),
    (insert_cache_check, undecided),
    (insert_forecast, without_a_replay),
    (insert_agreement, selfish),
    (insert_conditional, other_branch),
)


def test_every_pass_has_a_spec() -> None:
    assert all(step.ensures for step in PASSES)
    assert [step.run for step in PASSES] == [step for step, _ in BROKEN]


@pytest.mark.parametrize(("last", "harm"), BROKEN)
def test_the_spec_of_each_pass_catches_a_broken_program(
    last: Callable[[Program], Program], harm: Callable[[Program], Program]
) -> None:
    done = until(last)
    check(done, after=last)
    with pytest.raises(GraphSpecError, match=f"after '{last.__name__}' is broken"):
        check(harm(done), after=last)


def test_a_pass_under_another_name_keeps_its_spec() -> None:
    def renamed(program: Program) -> Program:
        return swapped_blocks(find_chain(program))

    spec = next(p for p in PASSES if p.run is find_chain).ensures
    with pytest.raises(GraphSpecError, match="after 'renamed' is broken: block"):
        Pass(renamed, spec)(program(toy()))


def test_verify_catches_a_chain_that_is_none() -> None:
    done = find_chain(program(toy()))
    broken = done.replace(chain=tuple(reversed(done.chain)))
    with pytest.raises(GraphSpecError, match="does not consume"):
        check(broken, after=find_chain)


def test_verify_catches_unpaired_streams() -> None:
    done = pair_streams(find_chain(dual_program()))
    block = done.chain[1]
    inputs = list(block.carries.values())
    twisted = dataclasses.replace(block, carries=dict.fromkeys(block.carries, inputs[0]))
    with pytest.raises(GraphSpecError, match="same input"):
        check(done.replace(chain=(done.chain[0], twisted, *done.chain[2:])), after=pair_streams)


def test_verify_catches_missing_metadata() -> None:
    done = find_chain(program(toy()))
    next(n for n in done.capture.graph.graph.nodes if n.op == "call_module").meta.clear()
    with pytest.raises(GraphSpecError, match="no metadata"):
        check(done, after=find_chain)


@pytest.mark.parametrize("last", [partition, insert_cache_check, insert_forecast])
def test_verify_catches_a_stage_node_without_metadata(last: Callable[[Program], Program]) -> None:
    done = until(last)
    assert done.partition is not None
    list(done.partition.middles[0].compute.graph.nodes)[-1].meta.clear()
    with pytest.raises(GraphSpecError, match=r"in 'compute' value '.*' has no metadata"):
        check(done, after=last)


@pytest.mark.parametrize("name", ["cached", "skip"])
def test_verify_catches_a_finished_node_without_metadata(name: str) -> None:
    done = finished()
    assert done.graph is not None
    graph = done.graph.graph if name == "cached" else done.stages[name].graph.graph
    next(n for n in graph.nodes if n.op == "call_function").meta.clear()
    with pytest.raises(GraphSpecError, match="has no metadata"):
        check(done, after=insert_conditional)


@pytest.mark.parametrize(
    "change",
    [lambda v: v.double(), lambda v: v.unsqueeze(0), lambda v: v.to("meta")],
    ids=["dtype", "shape", "device"],
)
def test_verify_catches_branches_that_disagree(change: Callable[[Tensor], Tensor]) -> None:
    done = finished()
    given = done.stages["skip"].graph.graph.output_node().args[0][0]
    given.meta["val"] = change(given.meta["val"])
    with pytest.raises(GraphSpecError, match=r"the branches of segment 0 give '.*' (in another|on another)"):
        check(done, after=insert_conditional)


def test_verify_catches_an_output_that_keeps_its_own_layout() -> None:
    done = finished()
    output = done.stages["skip"].graph.graph.output_node()
    output.args = (tuple(n.args[0] for n in output.args[0]),)
    with pytest.raises(GraphSpecError, match="in a layout of its own"):
        check(done, after=insert_conditional)


def test_verify_catches_a_node_in_the_wrong_region() -> None:
    done = program(toy())
    for step in (find_chain, pair_streams, split_segments, assign_regions):
        done = step(done)
    moved = {n: (0 if n.name == "blocks_3" else r) for n, r in done.regions.items()}
    with pytest.raises(GraphSpecError, match="runs before"):
        check(done.replace(regions=moved), after=assign_regions)


def test_verify_catches_aliasing_branch_outputs() -> None:
    done = finished()
    graph = done.stages["skip"].graph.graph
    first = graph.output_node().args[0][0]
    graph.output_node().args = ((first,) * len(done.stages["skip"].outputs),)
    with pytest.raises(GraphSpecError, match="the same tensor"):
        check(done, after=insert_conditional)


def test_verify_catches_an_output_that_is_an_input() -> None:
    done = finished()
    graph = done.stages["skip"].graph.graph
    inputs = graph.find_nodes(op="placeholder")
    graph.output_node().args = (tuple(inputs[: len(done.stages["skip"].outputs)]),)
    with pytest.raises(GraphSpecError, match="one of its inputs"):
        check(done, after=insert_conditional)


def test_verify_catches_dead_blocks() -> None:
    done = finished()
    graph = done.stages["back"].graph.graph
    graph.output_node().args = ((graph.find_nodes(op="placeholder")[0],),)
    with pytest.raises(GraphSpecError, match="nobody uses"):
        check(done, after=insert_conditional)


def test_dead_state_is_dropped() -> None:
    """With Bn = 0 the encoder stream of the last middle block never reaches the output."""
    done = program(
        dual(), "F1B0_W2M0MC0_T0O1_R0.1", encoder_hidden_states=latents(1, 1)[0], extra=latents(1, 2)[0]
    )
    for step in PASSES:
        done = step(done)
    histories = [s for s in done.state if "_history" in s.name]
    assert len(histories) == 1


def test_state_of_a_graph_is_what_theory_says() -> None:
    cached = fxcache.transform(toy(), "F1B0_W2M0MC0_T1O2_R0.1")
    x, t = latents(1, 0)[0], timesteps(1)[0]
    with torch.no_grad():
        cached(x, t)
    state = cached._contexts.last_state().state
    streams = sum(
        v.numel() * v.element_size() for n, v in state.items() if not n.startswith(("clock", "log", "knobs"))
    )
    assert streams == x.numel() * 4 * (1 + 1 + 3)  # the sample, the front residual, and order + 1 values


def printed(done: Program) -> list[str]:
    """All that passes build, as text: graphs under construction, stages, the outer graph."""
    found = []
    if done.partition is not None:
        trunks = [trunk.builder for trunk in done.partition.trunks]
        builders = [*trunks, *(b for m in done.partition.middles for b in (m.compute, m.skip))]
        found += [f"{b.name} {b.graph} {b.outputs} {[*b.inputs]}" for b in builders]
    found += [f"{name} {stage.graph.graph}" for name, stage in done.stages.items()]
    if done.graph is not None:
        found.append(str(done.graph.graph))
    return [*found, *(s.name for s in done.state), str(done.segments), str(list(done.regions.values()))]


def test_a_pass_changes_nothing_of_its_input() -> None:
    done = dual_program()
    for step in PASSES:
        before = printed(done)
        once = step(done)
        assert printed(done) == before, step.run.__name__
        assert printed(step(done)) == printed(once), step.run.__name__
        done = once
