"""Every hit equals the run-time reference: middle blocks skipped, the forecast added at the cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.behaviour.zoo import ALL_CASES, ZooCase, find
from tests.behaviour.zoo.against_reference import NOT_EXPRESSIBLE, compare
from tests.behaviour.zoo.running import captured
from tests.behaviour.zoo.table import TOLERANCE
from tests.behaviour.zoo.tiers import FAST, REFUSED, over
from tests.reference import CachedReference, Ladder

EXPRESSIBLE = tuple(name for name in FAST if name not in NOT_EXPRESSIBLE)


def _check(case: ZooCase, order: int, fn: int = 1, bn: int = 1) -> None:
    result = compare(case, captured(case), order, fn, bn)
    assert result.computed_equal, "a step that computes differs from the model"
    assert result.error < TOLERANCE, f"a hit differs from the reference by {result.error:.1e}"


@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_hits_equal_the_reference(name: str) -> None:
    case = find(name)
    _check(case, order=0)
    _check(case, order=1, fn=2, bn=0)


@pytest.mark.full
@over(ALL_CASES, but=(*REFUSED, *NOT_EXPRESSIBLE))
def test_hits_of_every_case_equal_the_reference(case: ZooCase) -> None:
    for order in (0, 1):
        for fn, bn in ((1, 1), (2, 0), (1, 0)):
            _check(case, order, fn, bn)


class _Doubler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Double() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class _Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_the_reference_on_numbers() -> None:
    reference = CachedReference(_Doubler(), [f"blocks.{i}" for i in range(4)], fn=1, bn=1)
    assert reference({"x": torch.tensor([1.0])}, hit=False) == 16
    # front 2 * 3 = 6, plus the middle's residual of before 8 - 2 = 6, doubled by the back
    assert reference({"x": torch.tensor([3.0])}, hit=True) == 24


def test_the_ladder_on_numbers() -> None:
    ladder = Ladder(order=1)
    ladder.learn(torch.tensor(1.0), step=0)
    assert ladder.predict(1) == 1
    ladder.learn(torch.tensor(5.0), step=2)
    assert ladder.predict(3) == 7
