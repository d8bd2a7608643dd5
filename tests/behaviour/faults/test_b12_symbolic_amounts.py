"""Padding and resizing by amounts that follow from the sizes keep the sizes free."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxcache
from tests.behaviour.faults.base import NEVER, WIDTH, Base, build, equal_uncached, sample


def padded(x: Tensor) -> Tensor:
    """To an even number of tokens, and back."""
    return F.pad(x, (0, 0, 0, x.shape[1] % 4 + 1))


def reflected(x: Tensor) -> Tensor:
    return F.pad(x.transpose(1, 2), (0, x.shape[1] // 2), mode="reflect").transpose(1, 2)


def replicated(x: Tensor) -> Tensor:
    return F.pad(x.transpose(1, 2), (x.shape[1], 0), mode="replicate").transpose(1, 2)


def nearest(x: Tensor) -> Tensor:
    return F.interpolate(x.transpose(1, 2), size=x.shape[1] * 2 - 1).transpose(1, 2)


def linear(x: Tensor) -> Tensor:
    return F.interpolate(x.transpose(1, 2), size=x.shape[1] + 3, mode="linear").transpose(1, 2)


AMOUNTS: dict[str, Callable[[Tensor], Tensor]] = {
    f.__name__: f for f in (padded, reflected, replicated, nearest, linear)
}


def calls() -> list[Any]:
    return [*sample(2, tokens=5), *sample(2, tokens=8), *sample(1, tokens=11)]


@pytest.mark.parametrize("name", AMOUNTS)
def test_b12_in_the_glue(name: str) -> None:
    class Model(Base):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            count = x.shape[1]
            return super().forward(AMOUNTS[name](x), timestep)[:, :count]

    cached = equal_uncached(build(Model), calls())
    ways = {v.program.capture.how for v in cached._specializations.all()}
    assert ways == ({"static"} if name == "linear" else {"symbolic"})  # decomposed, it rounds otherwise


@pytest.mark.parametrize("name", ["padded", "nearest"])
def test_b12_in_a_module(name: str) -> None:
    class Change(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return AMOUNTS[name](x)

    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.change = Change()

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return super().forward(self.change(x), timestep)

    cached = equal_uncached(build(Model), calls())
    assert [v.program.capture.how for v in cached._specializations.all()] == ["symbolic"]


def test_b12_what_is_written_is_not_mistaken() -> None:
    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout(0.1)

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            x = padded(x)
            same = self.drop(x)
            same += torch.ones(WIDTH)
            same = F.dropout(x, 0.1, training=False)
            same += 1
            return super().forward(x, timestep)

    equal_uncached(build(Model), calls())


def test_b12_memos_keyed_by_open_sizes_hold_pythons_numbers() -> None:
    class Memoizing(Base):
        def __init__(self) -> None:
            super().__init__()
            self.rows: dict[Any, Tensor] = {}

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            for key in (x.shape[1], (x.shape[1], "rows"), tuple(x.shape)):
                if key not in self.rows:
                    self.rows[key] = torch.arange(x.shape[1], dtype=x.dtype).reshape(1, -1, 1)
                x = x + 0.01 * self.rows[key]
            return super().forward(x, timestep)

    model, twin = build(Memoizing), build(Memoizing)
    cached = fxcache.transform(twin, NEVER)
    with torch.no_grad():
        for tokens in (5, 7, 5, 9, 7):
            for call in sample(2, tokens=tokens):
                assert torch.equal(cached(*call), model(*call))
    assert list(twin.rows) == list(model.rows)
    flat = [part for key in twin.rows for part in (key if isinstance(key, tuple) else (key,))]
    assert {type(part) for part in flat} == {int, str}
    assert all(type(rows) is Tensor for rows in twin.rows.values())
