"""Blocks take and return nested structures, dataclasses among them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache.errors import CaptureError
from tests.behaviour.faults.base import EAGER, WIDTH, Base, build, equal_uncached, sample
from tests.sweep import sweep


class Named(NamedTuple):
    x: Tensor
    rest: tuple[Tensor, Tensor]


@dataclass
class State:
    x: Tensor
    scale: Tensor
    label: str = "state"


@dataclass(frozen=True)
class Outer:
    state: State
    more: tuple[Tensor, ...] = ()


class Mixing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, WIDTH)

    def step(self, x: Tensor) -> Tensor:
        return x + self.mix(x).tanh()


class Nested(Mixing):
    def forward(self, x: Tensor, f: Tensor, g: Tensor) -> Any:
        return self.step(x), (f + 1, g * 2)


class Dict(Mixing):
    def forward(self, x: Tensor, f: Tensor, g: Tensor) -> Any:
        return {"x": self.step(x), "rest": [f + 1, {"g": g * 2}]}


class ByName(Mixing):
    def forward(self, x: Tensor, f: Tensor, g: Tensor) -> Any:
        return Named(self.step(x), (f + 1, g * 2))


class Data(Mixing):
    def forward(self, x: Tensor, f: Tensor, g: Tensor) -> Any:
        return Outer(State(self.step(x), f + 1), (g * 2,))


class Taking(Mixing):
    def forward(self, state: State) -> State:
        assert state.label == "state"
        return State(self.step(state.x) * state.scale, state.scale * 0.9)


class TakingOuter(Mixing):
    def forward(self, outer: Outer, *, flag: bool = False) -> Outer:
        assert flag
        return Outer(State(self.step(outer.state.x), outer.state.scale + outer.more[0]), outer.more)


class TakingWritten(Mixing):
    def forward(self, state: State) -> None:
        state.x += self.mix(state.x).tanh()


def giving(kind: type[Mixing], read: Any) -> Any:
    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(kind() for _ in range(4))

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            f, g = x.mean(-1), x.sum(-1)
            for block in self.blocks:
                x, f, g = read(block(x, f, g))
            return x * (f + g)[..., None]

    return build(Model)


def taking(kind: type[Mixing], make: Any, call: Any, read: Any) -> Any:
    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(kind() for _ in range(4))

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            state = make(x * 1.0)
            for block in self.blocks:
                state = call(block, state)
            return read(state)

    return build(Model)


MODELS = {
    "nested": giving(Nested, lambda r: (r[0], *r[1])),
    "dict": giving(Dict, lambda r: (r["x"], r["rest"][0], r["rest"][1]["g"])),
    "named": giving(ByName, lambda r: (r.x, *r.rest)),
    "data": giving(Data, lambda r: (r.state.x, r.state.scale, r.more[0])),
    "taking": taking(
        Taking, lambda x: State(x, x.mean(-1, True)), lambda b, s: b(s), lambda s: s.x * s.scale
    ),
    "taking outer": taking(
        TakingOuter,
        lambda x: Outer(State(x, x.mean(-1, True)), (x.sum(-1, True),)),
        lambda b, s: b(s, flag=True),
        lambda s: s.state.x * s.state.scale,
    ),
    "taking written": taking(
        TakingWritten, lambda x: State(x, x.mean()), lambda b, s: (b(s), s)[1], lambda s: s.x
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_b11_structures(name: str) -> None:
    model = MODELS[name]
    equal_uncached(model, sample())
    cached = fxcache.transform(model, EAGER)
    still = sample()[0]
    with torch.no_grad():
        for t in (900.0, 800.0, 700.0):  # equal inputs: what a hit replays is what a miss would compute
            x = still[0]
            torch.testing.assert_close(cached(x, torch.full((1,), t)), model(x, torch.full((1,), t)))
    assert sum(cached.stats()["default"].segments[0].hits) == 2


def test_b11_an_ordered_dict_given_back_by_the_model() -> None:
    class Model(Base):
        def forward(self, x: Tensor, timestep: Tensor) -> Any:
            x = super().forward(x, timestep)
            return OrderedDict(state=State(x, x.mean()))

    model = build(Model)
    cached = fxcache.transform(model, EAGER)
    with torch.no_grad():
        for call in sample(1):
            mine, theirs = cached(*call)["state"], model(*call)["state"]
            assert torch.equal(mine.x, theirs.x) and torch.equal(mine.scale, theirs.scale)


def test_b11_an_object_that_hides_tensors_is_refused() -> None:
    class Box:
        def __init__(self, x: Tensor) -> None:
            self.x = x

    class Boxing(Mixing):
        def forward(self, x: Tensor) -> Box:
            return Box(self.step(x))

    class Model(Base):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Boxing() for _ in range(4))

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x).x
            return x

    class Whole(Base):
        def forward(self, x: Tensor, timestep: Tensor) -> Any:
            return Box(super().forward(x, timestep))

    for kind in (Model, Whole):
        with torch.no_grad(), pytest.raises(CaptureError, match="Box"):
            fxcache.transform(build(kind), EAGER)(*sample()[0])


@pytest.mark.parametrize("mode", sweep(("fused", "single", "staged"), ("single",)))
@pytest.mark.parametrize("name", sweep(("dict", "taking"), ("taking",)))
def test_b11_compiled(name: str, mode: Any) -> None:
    cached = fxcache.transform(MODELS[name], EAGER)
    compiled = fxcache.compile(cached, mode=mode)
    with torch.no_grad():
        for call in sample(3):
            torch.testing.assert_close(compiled(*call), cached(*call), rtol=1e-4, atol=1e-5)


@pytest.mark.full
def test_b11_exported(tmp_path: Path) -> None:
    cached = fxcache.transform(MODELS["taking"], EAGER)
    with torch.no_grad():
        x, t = sample()[0]
        package = fxcache.load(fxcache.export(cached, tmp_path / "m.pt2", {"x": x, "timestep": t}))
        for x, t in sample(3):
            torch.testing.assert_close(package(x=x, timestep=t), cached(x, t), rtol=1e-4, atol=1e-5)
