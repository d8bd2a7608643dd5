"""What the passes decide against, `explain` says, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache import CacheConfig
from fxcache.backends.host.stage_fusion import host_path
from fxcache.forecasters import TaylorSeer
from tests.behaviour.faults.base import EAGER, NEVER, WIDTH, Base, Block, build, sample
from tests.toy import toy


def explained(model: nn.Module, config: Any = EAGER, **options: Any) -> fxcache.Explanation:
    x, timestep = sample()[0]
    return fxcache.explain(model, config, {"x": x, "timestep": timestep}, **options)


class Conditioned(nn.Module):
    """A block with a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        return x + self.mix(x) * condition


class Narrowing(nn.Module):
    """A block whose output is like none of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x)


class Counting(Block):
    """A block with a second result, in whole numbers."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x = super().forward(x)
        return x, (x > 0).sum(-1)


class Adapters(Base):
    """Each block takes what a layer of a second list makes of the timestep."""

    def __init__(self) -> None:
        super().__init__()
        self.adapters = nn.ModuleList(nn.Linear(1, WIDTH) for _ in range(4))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        for block, adapter in zip(self.blocks, self.adapters, strict=True):
            x = block(x + adapter(timestep[:, None])[:, None])
        return x


class Plain(Base):
    """Nothing is decided against."""


def test_blocks_beside_the_chain() -> None:
    found = explained(build(Adapters))
    note = "blocks of 'adapters' lie beside the chain, which passes through 1 of their 4 calls"
    assert found.notes == (note,)
    assert f"  beside          {note}\n" in str(found)


def test_blocks_before_the_chain_that_make_what_it_is_conditioned_on() -> None:
    class Refined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.refiners = nn.ModuleList(Block() for _ in range(2))
            self.blocks = nn.ModuleList(Conditioned() for _ in range(4))

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            condition = timestep[:, None, None].expand(-1, 1, WIDTH)
            for refiner in self.refiners:
                condition = refiner(condition)
            for block in self.blocks:
                x = block(x, condition)
            return x

    found = explained(build(Refined))
    why = "its primary stream does not come from them"
    assert found.notes == (f"blocks before 'blocks.0' are not of the chain: {why}",)
    assert why in str(found)


def test_a_small_list_before_the_chain_that_an_input_bypasses() -> None:
    class Joined(Base):
        def __init__(self) -> None:
            super().__init__()
            self.refiners = nn.ModuleList(Block() for _ in range(2))

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            text = x
            for refiner in self.refiners:
                text = refiner(text)
            return super().forward(torch.cat((x, text), 1), timestep)

    (note,) = explained(build(Joined)).notes
    assert note.startswith("blocks before 'blocks.0' are not of the chain: an input of the model joins")


def narrowing(place: int) -> nn.Module:
    """Blocks of half the width from `place` on."""

    class Narrows(Base):
        def __init__(self) -> None:
            super().__init__()
            wide = [Block() for _ in range(place)]
            narrow = [Block(WIDTH // 2) for _ in range(3)]
            self.blocks = nn.ModuleList([*wide, Narrowing(), *narrow])

    return build(Narrows)


def test_a_front_without_a_residual() -> None:
    found = explained(narrowing(0), "F1B0_W0M0MC0_T0O1_R1000")
    (segment,) = found.segments
    assert segment.signal == "it needs an output of 'blocks_0' that continues none of its arguments"
    assert segment.whole == {}
    assert f"the stream itself, not what the front adds: {segment.signal}" in str(found)


def test_an_output_without_a_residual() -> None:
    found = explained(narrowing(2), "F1B0_W0M0MC0_T0O1_R1000")
    (segment,) = found.segments
    reason = "it needs an output of 'blocks_2' that continues none of its arguments"
    assert segment.whole == {"blocks_5": reason} and segment.signal is None
    assert segment.cached_values == (("blocks_5", "[1, 5, 4]", "value"),)
    assert f"value of blocks_5 [1, 5, 4], not its residual: {reason}" in str(found)


def test_an_output_in_whole_numbers() -> None:
    class Counted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Counting() for _ in range(4))

        def forward(self, x: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
            for block in self.blocks:
                x, count = block(x)
            return x, count

    (segment,) = explained(build(Counted)).segments
    assert list(segment.whole.values()) == ["torch.int64 has no differences to forecast"]
    assert sorted(kind for *_, kind in segment.cached_values) == ["residual", "value"]


def test_a_forecaster_of_values() -> None:
    config = CacheConfig(fn_compute_blocks=1, forecaster=TaylorSeer(calibrate="hidden_states"))
    (segment,) = explained(build(Plain), config).segments
    assert segment.whole == {"blocks_3": 'the forecaster has calibrate="hidden_states"'}
    assert segment.cached_values[0][2] == "value"


def test_nothing_decided_against() -> None:
    found = explained(build(Plain))
    (segment,) = found.segments
    assert (found.notes, segment.whole, segment.signal) == ((), {}, None)
    for word in ("beside", "not its residual", "stream itself"):
        assert word not in str(found)


class Noisy(Base):
    """Its last step draws random numbers."""

    def __init__(self) -> None:
        super().__init__(40)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return super().forward(x, timestep) + 0.1 * torch.randn_like(x)


class Headed(Base):
    """Its head is no small part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.head(super().forward(x, timestep))


class TwoLists(Base):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.ModuleList(Block() for _ in range(4))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        x = super().forward(x, timestep).sin()
        for block in self.more:
            x = block(x)
        return x


@pytest.mark.parametrize(
    ("kind", "config", "scope", "why"),
    [
        (lambda: Base(40), EAGER, "model", None),
        (lambda: Base(40), NEVER, "model", "no step is a hit"),
        (Headed, EAGER, "model", "a hit uses 72 parameters, more than 5% of the 288 of a miss"),
        (Noisy, EAGER, "model", "a hit takes random numbers"),
        (TwoLists, EAGER, "list", "a step has 2 decisions"),
    ],
)
def test_a_hit_that_waits_for_the_decision(
    kind: Callable[[], nn.Module], config: str, scope: str, why: str | None
) -> None:
    found = explained(build(kind), config, scope=scope)
    assert found.waits == why
    starts = "before the decision is known" if why is None else f"after the decision: {why}"
    assert str(found).endswith(f"a hit starts {starts}")


def test_a_path_says_why_exactly_where_it_does_not_speculate() -> None:
    for blocks, speculated in ((40, True), (4, False)):
        cached = fxcache.transform(toy(blocks), "F1B0_W2M0MC0_T0O1_R0.05")
        cached.prepare({"hidden_states": sample()[0][0], "timestep": torch.ones(1)})
        path = host_path(cached.graph.program)
        assert (path.waits is None) is speculated is (path.speculated is not None)
