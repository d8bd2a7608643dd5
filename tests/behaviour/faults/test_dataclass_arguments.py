"""A dataclass of tensors among a call's arguments is opened: its tensors are inputs of the graph.

It was an object that counts by identity, so that every call was captured anew and none was a hit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import fxcache
from tests.behaviour.faults.base import EAGER, NEVER, WIDTH, Base, build, sample


@dataclass(frozen=True)
class Conditioning:
    text: Tensor
    strength: float = 1.0
    kind: str = "plain"
    more: list[Any] = field(default_factory=list)


class Conditioned(Base):
    def forward(self, x: Tensor, timestep: Tensor, given: Any = None) -> Tensor:
        first = given[0] if isinstance(given, list) else given
        x = x * first.strength + (first.text if first.kind == "plain" else -first.text)
        for one in first.more:
            x = x + one.text
        return super().forward(x, timestep)


def conditioning(step: int, **options: Any) -> Conditioning:
    return Conditioning(torch.full((WIDTH,), 0.1 * step), **options)


def follow(given: list[Any], config: str = NEVER) -> Any:
    model = build(Conditioned)
    cached = fxcache.transform(model, config)
    with torch.no_grad():
        for (x, t), one in zip(sample(len(given)), given, strict=True):
            assert torch.equal(cached(x, t, one), model(x, t, one)) or config == EAGER
    return cached


def test_new_tensors_in_it_need_no_new_graph() -> None:
    for nest in (lambda c: c, lambda c: [c], lambda c: conditioning(1, more=[c])):
        given = [nest(conditioning(step)) for step in range(4)]
        assert len(follow(given).specializations()) == 1
        cached = follow([nest(conditioning(1)) for _ in range(4)], EAGER)
        assert cached.stats()["default"].hits == (False, True, True, True)


def test_its_other_fields_count() -> None:
    given = [conditioning(0), conditioning(1, kind="negative"), conditioning(2), conditioning(3, more=[])]
    assert len(follow(given).specializations()) == 2


def test_a_number_in_it_that_changes_becomes_an_input() -> None:
    cached = follow([conditioning(step, strength=1.0 + 0.1 * step) for step in range(5)])
    assert len(cached.specializations()) == 2
    names = cached.specializations()[1].program.capture.inputs
    assert "given.text" in names and "given.strength" in names
