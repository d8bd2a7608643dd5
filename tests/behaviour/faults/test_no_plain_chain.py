"""Blocks that do not just follow one another: cached rightly, or refused for what they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fxcache
from fxcache.errors import NoBlocksError

from .base import EAGER, Base, build, equal_uncached, sample

Run = Callable[[Any, Tensor], Tensor]


def on_two_inputs(blocks: Any, x: Tensor) -> Tensor:
    for block in blocks:
        x = 0.5 * block(x) + 0.5 * block(x * 1.1)
    return x


def on_both_halves(blocks: Any, x: Tensor) -> Tensor:
    x = torch.cat([x, x * 1.1])
    for block in blocks:
        one, other = x.chunk(2)
        x = torch.cat([block(one), block(other)])
    return x.mean(0, keepdim=True)


def the_first_again(blocks: Any, x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x) * (1 + 0.1 * blocks[0](x).mean())
    return x


def three_times_in_a_row(blocks: Any, x: Tensor) -> Tensor:
    for block in blocks:
        x = block(block(block(x)))
    return x


def one_unused(blocks: Any, x: Tensor) -> Tensor:
    for i, block in enumerate(blocks):
        result = block(x)
        x = x if i == 1 else result
    return x


def into_a_later_skip(blocks: Any, x: Tensor) -> Tensor:
    x = blocks[0](x)
    beside = blocks[1](x)
    return blocks[3](blocks[2](x)) + beside


def by_pairs(blocks: Any, x: Tensor) -> Tensor:
    x = x + blocks[0](x) + blocks[1](x)
    return x + blocks[2](x) + blocks[3](x)


def reversible(blocks: Any, x: Tensor) -> Tensor:
    one, other = x, 0.9 * x
    for i in (0, 2):
        one = one + blocks[i](other)
        other = other + blocks[i + 1](one)
    return one + other


def all_before(blocks: Any, x: Tensor) -> Tensor:
    seen = [x]
    for block in blocks:
        seen.append(block(torch.stack(seen).mean(0)))
    return torch.stack(seen).mean(0)


def side_by_side(blocks: Any, x: Tensor) -> Tensor:
    return x + blocks[0](x) + blocks[1](x) + blocks[2](x)


def token_by_token(blocks: Any, x: Tensor) -> Tensor:
    return torch.cat([blocks[i % 4](x[:, i : i + 1]) for i in range(x.shape[1])], 1)


CACHED = (
    on_two_inputs, on_both_halves, the_first_again, three_times_in_a_row, one_unused, into_a_later_skip,
    by_pairs, reversible, all_before,
)  # fmt: skip


def model_of(run: Run) -> Any:
    class Model(Base):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return run(self.blocks, x)

    return build(Model)


@pytest.mark.parametrize("run", CACHED, ids=lambda r: r.__name__)
def test_equal_and_cached(run: Run) -> None:
    model, calls = model_of(run), sample()
    equal_uncached(model, calls)
    cached = fxcache.transform(model, EAGER)
    with torch.no_grad():
        same = calls[0][0]
        outputs = [cached(same, timestep) for _, timestep in calls]
        expected = model(same, calls[0][1])
    assert cached.stats()["default"].cached_steps == (1, 2, 3)
    for output in outputs:  # of the same input, a hit is what was computed
        torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("run", [on_two_inputs, on_both_halves], ids=lambda r: r.__name__)
def test_a_hit_runs_no_call_of_the_middle_blocks(run: Run) -> None:
    model, (x, timestep) = model_of(run), sample()[0]
    program = fxcache.transform(model, EAGER).specialization_for({"x": x, "timestep": timestep})[0].program
    calls = program.stages["skip"].graph.graph.find_nodes(op="call_module")
    assert not {str(n.target) for n in calls} & {"blocks.1", "blocks.2", "blocks.3"}


@pytest.mark.parametrize("run", [side_by_side, token_by_token], ids=lambda r: r.__name__)
def test_blocks_of_which_none_consumes_another_are_refused(run: Run) -> None:
    with pytest.raises(NoBlocksError, match="each consuming what the one before produced"), torch.no_grad():
        fxcache.transform(model_of(run), EAGER)(*sample()[0])
