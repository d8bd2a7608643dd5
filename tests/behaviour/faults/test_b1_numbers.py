"""B1: numbers that change between calls are inputs of the graph where the forward allows it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fxcache
from fxcache.errors import PackageInputError, TooManyCapturesError
from tests.behaviour.faults.base import EAGER, NEVER, Base, Block, build, sample
from tests.sweep import sweep


class Guided(Base):
    """Multiplies by a number."""

    def forward(self, x: Tensor, timestep: Tensor, guidance: float = 1.0) -> Tensor:
        return super().forward(x * guidance + guidance / 3, timestep) * (1 - guidance)


class Scaled(Base):
    """Takes a number in a dictionary, as diffusers takes LoRA scales."""

    def forward(self, x: Tensor, timestep: Tensor, attention_kwargs: Any = None) -> Tensor:
        scales = dict(attention_kwargs or {})
        scale = scales.pop("scale", 1.0)
        return super().forward(x + torch.full_like(x, scale) * scales["more"][1], timestep)


class Switched(Base):
    """Decides by a number."""

    def forward(self, x: Tensor, timestep: Tensor, strength: float) -> Tensor:
        if strength > 0.5:
            x = x * strength
        return super().forward(x, timestep)


class Handed(Base):
    """Hands a number to its blocks."""

    class Block(Block):
        def forward(self, x: Tensor, scale: float) -> Tensor:  # type: ignore[override]
            return x + scale * self.mix(x)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Handed.Block() for _ in range(4))

    def forward(self, x: Tensor, timestep: Tensor, scale: float) -> Tensor:
        for block in self.blocks:
            x = block(x, scale)
        return x


class Deciding(Handed):
    """Its blocks decide by the number."""

    class Block(Block):
        def forward(self, x: Tensor, scale: float) -> Tensor:  # type: ignore[override]
            return x + scale * self.mix(x) if scale > 0.5 else x - self.mix(x)

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Deciding.Block() for _ in range(4))


class Counted(Base):
    """Multiplies by an integer."""

    def forward(self, x: Tensor, timestep: Tensor, count: int) -> Tensor:
        return super().forward(x * count + count // 3, timestep)


class Fixing(Base):
    """Needs to know a number."""

    def forward(self, x: Tensor, timestep: Tensor, amount: float) -> Tensor:
        return super().forward(x * float(f"{amount:.1f}"), timestep)


class Sine(Base):
    """Does with a number what can be done with a symbol only in part."""

    def forward(self, x: Tensor, timestep: Tensor, angle: float) -> Tensor:
        return super().forward(x * math.sin(angle) + math.sqrt(angle), timestep)


class Setting(Base):
    """Sets the number on its blocks."""

    class Block(Block):
        def __init__(self) -> None:
            super().__init__()
            self.scale = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return x + self.mix(x) * self.scale

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Setting.Block() for _ in range(4))

    def forward(self, x: Tensor, timestep: Tensor, scale: float) -> Tensor:
        for block in self.blocks:
            block.scale = scale * 2
        return super().forward(x, timestep)


class Storing(Base):
    """Leaves the number written."""

    last = 0.0

    def forward(self, x: Tensor, timestep: Tensor, number: float) -> Tensor:
        self.last = number * 2
        return super().forward(x, timestep)


def captures(cached: Any) -> int:
    return len(cached._specializations.all())


def follow(kind: Callable[[], Base], numbers: list[Any], config: str = NEVER, **options: Any) -> Any:
    model = build(kind)
    cached = fxcache.transform(model, config, **options)
    with torch.no_grad():
        for number, (x, timestep) in zip(numbers, sample(len(numbers)), strict=True):
            assert torch.equal(cached(x, timestep, number), model(x, timestep, number)), number
    return cached


DRIFTING = [1 + 0.01 * i for i in range(24)]


@pytest.mark.parametrize("kind", [Guided, Handed])
def test_b1_a_float_that_changes_on_every_call_is_an_input(kind: type[Base]) -> None:
    assert captures(follow(kind, DRIFTING)) == 2


def test_b1_the_steps_are_cached() -> None:
    model = build(Guided)
    cached = fxcache.transform(model, EAGER)
    with torch.no_grad():
        for i, (x, timestep) in enumerate(sample(24)):
            cached(x, timestep, 1 + 0.01 * i)
    assert captures(cached) == 2
    assert len(cached.stats()["default"].cached_steps) >= 21
    assert cached.stats()["default"].flops_saved


def test_b1_a_number_in_a_dictionary() -> None:
    options = [{"scale": v, "more": (1, v + 1)} for v in DRIFTING]
    assert captures(follow(Scaled, options)) == 2


def test_b1_a_decision_by_a_number_is_a_condition() -> None:
    numbers = [0.1, 0.2, 0.9, 0.3, 0.8, 0.5, 0.50001, 0.7, 0.4]
    assert captures(follow(Switched, numbers)) == 3


def test_b1_special_values() -> None:
    numbers = [1.0, 2.0, 0.0, -0.0, 1e-300, -1.5, 1e16, 3.0]
    assert captures(follow(Guided, numbers)) == 2


def test_b1_an_integer() -> None:
    assert captures(follow(Counted, [5, 7, 11, 0, 1, -4, 2**40])) <= 3


def test_b1_a_number_that_comes_and_goes_and_a_tensor_in_its_place() -> None:
    model = build(Guided)
    cached = fxcache.transform(model, NEVER)
    x, timestep = sample(1)[0]
    given = [1.5, 2.5, 3, torch.tensor(2.0, dtype=torch.float64), 4.5, torch.full((1,), 2.0), 5, True, 2.5]
    with torch.no_grad():
        for number in given:
            assert torch.equal(cached(x, timestep, number), model(x, timestep, number))
        assert torch.equal(cached(x, timestep), model(x, timestep))


@pytest.mark.parametrize("kind", [Fixing, Sine])
def test_b1_numbers_that_the_forward_needs_are_right_and_bounded(kind: type[Base]) -> None:
    numbers = [0.5, 0.5, 0.75, 0.75, 1.25, 1.25, 0.5]
    assert captures(follow(kind, numbers)) <= 4


def test_b1_a_number_that_the_forward_needs_is_refused_by_name_in_the_end() -> None:
    with pytest.raises(TooManyCapturesError, match="'amount' changed from"):
        follow(Fixing, [0.1 * i for i in range(1, 12)], max_captures=4)


def test_b1_a_number_with_other_things() -> None:
    model = build(Guided)
    cached = fxcache.transform(model, NEVER)
    with torch.no_grad():
        for i, (x, timestep) in enumerate(sample(6)):
            x = x[:, : 5 - i % 2]
            assert torch.equal(cached(x, timestep, 1.0 + i), model(x, timestep, 1.0 + i))
    assert captures(cached) <= 3


class Glue(Base):
    """Does with the number what it is told to."""

    def __init__(self, does: Callable[[Tensor, Any], Any]) -> None:
        super().__init__()
        self.does = does

    def forward(self, x: Tensor, timestep: Tensor, number: Any) -> Tensor:
        return super().forward(self.does(x, number), timestep)


FLOATS = [0.3, 0.4, 0.52, 0.6, 0.7]
INTS = [3, 4, 5, 2, 1, 0]
AS_INPUT: dict[str, tuple[Callable[[Tensor, Any], Any], list[Any], int]] = {
    "half precision": (lambda x, g: (x.half() * g + g / 3).float(), FLOATS, 2),
    "bfloat16": (lambda x, g: (x.bfloat16() * g / 7).float(), FLOATS, 2),
    "arithmetic": (lambda x, g: x * (g // 0.2) + g % 0.3 - 2**g + g**2 + round(g, 1), FLOATS, 2),
    "integer arithmetic": (lambda x, n: x * n + n // 2 + n % 3 + n / 3 + (n << 1), INTS, 2),
    "rounding away": (lambda x, g: x * g if g + 1e20 - 1e20 > 0.45 else x, FLOATS, 2),
    "the part before the point": (lambda x, g: x * int(g * 2), FLOATS, 3),
    "a decision": (lambda x, g: x * g if 0.35 < g <= 0.55 else x, FLOATS, 3),
    "equality": (lambda x, n: x * 2 if n == 5 else x * n, INTS, 3),
    "truth": (lambda x, g: x * 2 if g else x, [0.5, 0.0, 0.7, -0.0], 3),
    "the larger": (lambda x, g: x * max(g, 0.45), FLOATS, 3),
    "its kind": (lambda x, g: x * g if isinstance(g * 2, float) else x, FLOATS, 2),
    "a tensor of it": (lambda x, g: x * torch.tensor([g, 2.0]).sum() + torch.tensor(g), FLOATS, 2),
    "a tensor like another": (lambda x, n: x * x.new_tensor(n), INTS, 2),
    "writes": (lambda x, g: x.clone().mul_(g).add_(1 if g > 0.45 else g), FLOATS, 3),
    "a choice of tensors": (lambda x, g: torch.where(x > g, x, g), FLOATS, 2),
}
AS_CONSTANT: dict[str, tuple[Callable[[Tensor, Any], Any], list[Any]]] = {
    "math": (lambda x, g: x * math.sqrt(g), FLOATS),
    "float": (lambda x, g: x * float(g), FLOATS),
    "text": (lambda x, g: x * len(str(g * 2)), FLOATS),
    "its very type": (lambda x, g: x * g if type(g) is float else x, FLOATS),
    "a table": (lambda x, n: x * {3: 1.5, 4: 2.0}.get(n, 3.0), INTS),
    "a range": (lambda x, n: sum([x, *(x * i for i in range(n))]), INTS),
    "a slice": (lambda x, n: torch.cat([x[:, :n], x[:, n:] * 2], 1), INTS),
    "a size": (lambda x, n: x + torch.ones(n, 1, 8).sum(), INTS),
    "an index": (lambda x, n: x * x[:, n][:, None], [3, 4, 2, 1, 0]),
    "a bool": (lambda x, b: x * 2 if b else x * b, [True, False, True]),
    "an integer that no float is": (lambda x, n: x * 2 if n > 2.0**53 else x, [2**53, 2**53 + 1, 2**53 + 2]),
}


def follow_glue(does: Callable[[Tensor, Any], Any], numbers: list[Any]) -> Any:
    return follow(lambda: Glue(does), numbers)


FEW_INPUTS = ("arithmetic", "rounding away", "a decision", "the larger", "a tensor of it", "writes")


@pytest.mark.parametrize("what", sweep(AS_INPUT, FEW_INPUTS))
def test_b1_what_can_be_done_with_a_number_that_is_an_input(what: str) -> None:
    does, numbers, expected = AS_INPUT[what]
    assert captures(follow_glue(does, numbers)) == expected


@pytest.mark.parametrize("what", sweep(AS_CONSTANT, ("a slice", "text", "float")))
def test_b1_a_number_whose_value_is_needed_stays_a_constant(what: str) -> None:
    does, numbers = AS_CONSTANT[what]
    cached = follow_glue(does, numbers)
    assert captures(cached) == len(set(numbers))
    assert not any(v.program.capture.numbers for v in cached._specializations.all())


@pytest.mark.parametrize("kind", [Setting, Storing])
def test_b1_a_number_that_is_set_on_modules_stays_a_constant(kind: type[Base]) -> None:
    cached = follow(kind, FLOATS)
    assert captures(cached) == len(FLOATS)
    last = FLOATS[-1] * 2
    original = cached.original
    written = [original.last] if kind is Storing else [b.scale for b in original.blocks]
    assert all(type(w) is float and w == last for w in written)


def test_b1_a_number_that_is_given_back_stays_a_number() -> None:
    model = build(lambda: Glue(lambda x, g: x * g))
    model.forward = lambda x, timestep, number: (Glue.forward(model, x, timestep, number), number * 2)
    cached = fxcache.transform(model, NEVER)
    with torch.no_grad():
        for number, (x, timestep) in zip(FLOATS, sample(len(FLOATS)), strict=True):
            assert cached(x, timestep, number)[1] == number * 2


def test_b1_a_decision_in_a_block_is_a_condition() -> None:
    cached = follow(Deciding, FLOATS)
    assert captures(cached) == 3


def test_b1_a_way_that_needs_the_value_is_found_later() -> None:
    cached = follow_glue(lambda x, g: x * g if g < 0.5 else x * math.sqrt(g), FLOATS)
    assert captures(cached) == 2 + sum(g > 0.5 for g in FLOATS)


def test_b1_a_number_is_not_what_tells_requests_apart() -> None:
    model = build(Guided)
    cached = fxcache.transform(model, EAGER)
    with torch.no_grad():
        for i, (x, timestep) in enumerate(sample(8)):
            cached(x, timestep, 1.0 + 0.1 * i)
    assert captures(cached) == 2
    assert cached.stats()["default"].cached_steps == (1, 2, 3, 4, 5, 6)  # of the second capture


@pytest.mark.parametrize("mode", sweep(("fused", "single", "staged"), ("fused",)))
def test_b1_numbers_are_inputs_of_compiled_graphs(mode: str) -> None:
    model = build(Handed)
    plain = fxcache.transform(model, EAGER)
    cached = fxcache.compile(fxcache.transform(model, EAGER), mode=mode)
    with torch.no_grad():
        for i, (x, timestep) in enumerate(sample(5)):
            number = 1.0 + 0.1 * i
            torch.testing.assert_close(cached(x, timestep, number), plain(x, timestep, number))
    assert captures(cached) == 2
    assert cached.stats()["default"].cached_steps == (1, 2, 3)


@pytest.mark.full
def test_b1_a_number_is_a_constant_of_a_package(tmp_path: Path) -> None:
    model = build(Guided)
    cached = fxcache.transform(model, NEVER)
    with torch.no_grad():
        for i, (x, timestep) in enumerate(sample(3)):
            cached(x, timestep, 1.0 + i)
        x, timestep = sample(1)[0]
        inputs = {"x": x, "timestep": timestep, "guidance": 2.5}
        package = fxcache.load(fxcache.export(cached, tmp_path / "guided.pt2", inputs))
        torch.testing.assert_close(package(**inputs), model(**inputs))
        with pytest.raises(PackageInputError, match=r"guidance.* 3\.5.*exported with 2\.5"):
            package(**{**inputs, "guidance": 3.5})


def test_b1_a_timestep_that_is_a_number_stays_one() -> None:
    """What computes with a number must not be given a tensor: it rounds otherwise, or decides otherwise."""

    class Model(Base):
        def forward(self, x: Tensor, timestep: Any) -> Tensor:
            is_tensor = isinstance(timestep, Tensor)
            for i, block in enumerate(self.blocks):
                x = block(x + (0.1 if is_tensor else 1e-4 * (i + 1) * timestep))
            return x

    model = build(Model)
    calls = [(x, float(t) / 3) for x, t in sample(8)]
    cached = fxcache.transform(model, NEVER)
    hitting = fxcache.transform(model, EAGER)
    with torch.no_grad():
        for call in calls:
            assert torch.equal(cached(*call), model(*call))
            hitting(*call)
    assert len(cached._specializations.all()) == 1
    assert hitting.stats()["default"].hits == (False, *(True,) * 7)
