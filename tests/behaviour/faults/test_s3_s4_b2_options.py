"""Objects that callers hand to a model: held where they count by identity, compared whole where by value.

S3: keys held ids of objects that nobody kept alive. S4: a fingerprint that gave up went on. B2: objects
without a `__dict__` looked new on every call.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
import functools
import gc
import pathlib
import random
import types
import uuid
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache.errors import OpaqueInputError
from tests.behaviour.faults.base import EAGER, NEVER, Base, build, sample
from tests.sweep import sweep


class Patched(Base):
    """Hands its input to every function of an option, then runs the blocks."""

    def forward(self, x: Tensor, timestep: Tensor, options: Any = None) -> Tensor:
        for patch in options["patches"]:
            x = patch(x)
        return super().forward(x, timestep)


class Optional(Base):
    """Reads its option with a function that the test sets."""

    read: Callable[[Any, Tensor], Tensor]

    def forward(self, x: Tensor, timestep: Tensor, options: Any = None) -> Tensor:
        return super().forward(self.read(options, x), timestep)


def reading(read: Callable[[Any, Tensor], Tensor]) -> Any:
    return build(type("Reading", (Optional,), {"read": staticmethod(read)}))


def captures(cached: Any) -> int:
    return len(cached._specializations.all())


def follow(model: nn.Module, options: list[Any], config: str = NEVER) -> Any:
    """Call plain and cached with each of `options`, made when it is its turn; returns the cached model."""
    cached = fxcache.transform(model, config)
    x, timestep = sample(1)[0]
    with torch.no_grad():
        for make in options:
            option = make()
            assert torch.equal(cached(x, timestep, option), model(x, timestep, option))
            del option
            gc.collect()
    return cached


def scaled(x: Tensor, by: float) -> Tensor:
    return x * by


class Scaler:
    def __init__(self, by: float) -> None:
        self.by = by

    def apply(self, x: Tensor) -> Tensor:
        return x * self.by

    __call__ = apply


class Slotted:
    __slots__ = ("by", "inner")

    def __init__(self, by: float) -> None:
        self.by = by
        self.inner = [by]


class ScaleModule(nn.Module):
    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x * self.by


def closing(by: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * by


def defaulting(by: float) -> Callable[[Tensor], Tensor]:
    def patch(x: Tensor, by: float = by) -> Tensor:
        return x * by

    return patch


def keyword_defaulting(by: float) -> Callable[[Tensor], Tensor]:
    def patch(x: Tensor, *, by: float = by) -> Tensor:
        return x * by

    return patch


def marked(by: float) -> Callable[[Tensor], Tensor]:
    def patch(x: Tensor) -> Tensor:
        return x * patch.by  # type: ignore[attr-defined]

    patch.by = by  # type: ignore[attr-defined]
    return patch


MAKERS: dict[str, Callable[[float], Any]] = {
    "closure": closing,
    "default": defaulting,
    "keyword default": keyword_defaulting,
    "attribute of a function": marked,
    "partial": lambda by: functools.partial(scaled, by=by),
    "bound method": lambda by: Scaler(by).apply,
    "callable": Scaler,
    "module": ScaleModule,
    "decorated": lambda by: torch.no_grad()(closing(by)),
    "closure of a closure": lambda by: (lambda inner: lambda x: inner(x))(closing(by)),
    "weak reference": lambda by: (lambda held, ref: lambda x: ref().apply(x) + 0 * held.by)(
        *(lambda s: (s, weakref.ref(s)))(Scaler(by))
    ),
}


def test_s3_new_lambdas_on_every_call() -> None:
    follow(build(Patched), [lambda i=i: {"patches": [lambda x: x * (1 + i)]} for i in range(5)])


FEW_MAKERS = ("closure", "bound method", "module")


@pytest.mark.parametrize("kind", sweep(MAKERS, FEW_MAKERS))
def test_s3_every_kind_of_callable(kind: str) -> None:
    make = MAKERS[kind]
    follow(build(Patched), [lambda by=by: {"patches": [make(by)]} for by in (1.0, 2.0, 1.0, 3.0, 2.0)])


@pytest.mark.parametrize("kind", sweep([k for k in MAKERS if k != "module"], FEW_MAKERS[:-1]))
def test_s3_equal_new_callables_share_a_capture(kind: str) -> None:
    cached = follow(build(Patched), [lambda: {"patches": [MAKERS[kind](2.0)]}] * 3)
    assert captures(cached) == 1


FACTOR = 1.0
SETTINGS: dict[str, Any] = {"deep": [{"factor": 1.0}]}


class Settings:
    factor = 1.0


def test_s3_globals_that_a_patch_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(Patched)
    cached = fxcache.transform(model, NEVER)
    x, timestep = sample(1)[0]
    options = {"patches": [lambda x: x * FACTOR * SETTINGS["deep"][0]["factor"] * Settings.factor]}

    def same() -> None:
        assert torch.equal(cached(x, timestep, options), model(x, timestep, options))

    with torch.no_grad():
        same()
        monkeypatch.setitem(globals(), "FACTOR", 2.0)
        same()
        monkeypatch.setitem(SETTINGS["deep"][0], "factor", 3.0)
        same()
        monkeypatch.setattr(Settings, "factor", 5.0)
        same()
        same()
    assert captures(cached) == 4


def test_s3_a_method_put_on_the_class_of_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(Patched)
    cached = fxcache.transform(model, NEVER)
    x, timestep = sample(1)[0]
    scaler = Scaler(2.0)
    options = {"patches": [lambda x: scaler.apply(x)]}
    with torch.no_grad():
        assert torch.equal(cached(x, timestep, options), model(x, timestep, options))
        monkeypatch.setattr(Scaler, "apply", lambda self, x: x + self.by)
        assert torch.equal(cached(x, timestep, options), model(x, timestep, options))


def test_s4_a_value_six_levels_down() -> None:
    model = reading(lambda o, x: x * o.a.b[0]["c"].d[0].e)
    leaf = types.SimpleNamespace(e=1.0)
    option = types.SimpleNamespace(a=types.SimpleNamespace(b=[{"c": types.SimpleNamespace(d=[leaf])}]))

    def changed(value: float) -> Any:
        leaf.e = value
        return option

    follow(model, [lambda v=v: changed(v) for v in (1.0, 2.0, 3.0, 1.0)])


def test_s4_a_value_a_thousand_levels_down() -> None:
    def nested(value: float) -> Any:
        outer: Any = types.SimpleNamespace(value=value)
        for _ in range(1000):
            outer = types.SimpleNamespace(inner=outer)
        return outer

    def read(option: Any, x: Tensor) -> Tensor:
        while hasattr(option, "inner"):
            option = option.inner
        return x * option.value

    follow(reading(read), [lambda v=v: nested(v) for v in (1.0, 2.0, 1.0)])


def test_s4_an_object_that_holds_itself() -> None:
    def knot(value: float) -> Any:
        one = types.SimpleNamespace(value=value, others=[])
        one.others.append(one)
        return one

    cached = follow(
        reading(lambda o, x: x * o.others[0].value), [lambda v=v: knot(v) for v in (1.0, 2.0, 1.0)]
    )
    assert captures(cached) == 2


def test_s4_floats_that_compare_otherwise_than_they_compute() -> None:
    model = reading(lambda o, x: torch.copysign(x, o if isinstance(o, float) else o[0]))
    follow(model, [lambda: 0.0, lambda: -0.0, lambda: [0.0], lambda: [-0.0]])
    model = reading(lambda o, x: x if o != o else x + 1)
    cached = follow(model, [lambda: float("nan")] * 3)
    assert captures(cached) == 1


def test_s4_a_size_as_an_option() -> None:
    follow(reading(lambda o, x: x * o[0]), [lambda n=n: torch.Size([n]) for n in (2, 3, 2)])


def test_s4_an_object_handed_on_to_blocks_and_written_to_later() -> None:
    class Reads(nn.Module):
        def forward(self, x: Tensor, scaler: Scaler) -> Tensor:
            return x + scaler.apply(x)

    class Handing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Reads() for _ in range(3))

        def forward(self, x: Tensor, timestep: Tensor, scaler: Scaler) -> Tensor:
            for block in self.blocks:
                x = block(x, scaler)
            return x

    model = build(Handing)
    cached = fxcache.transform(model, NEVER)
    x, timestep = sample(1)[0]
    first, second = Scaler(2.0), Scaler(2.0)
    assert torch.equal(cached(x, timestep, first), model(x, timestep, first))
    first.by = 3.0  # the graph refers to this one
    assert torch.equal(cached(x, timestep, second), model(x, timestep, second))
    assert torch.equal(cached(x, timestep, first), model(x, timestep, first))


def test_s4_tensors_within_objects() -> None:
    with torch.inference_mode():
        written = torch.ones(1)
    holder = types.SimpleNamespace(factor=torch.ones(1), unversioned=written)
    model = reading(lambda o, x: x * o.factor * (2.0 if float(o.unversioned) > 1 else 1.0))
    cached = fxcache.transform(model, NEVER)
    x, timestep = sample(1)[0]

    def same() -> None:
        assert torch.equal(cached(x, timestep, holder), model(x, timestep, holder))

    with torch.inference_mode():
        same()
        holder.factor.mul_(2)
        same()
        written.fill_(3.0)
        same()
        holder.factor = torch.full((1,), 5.0)
        same()


def test_s4_what_cannot_be_compared_is_refused_by_name() -> None:
    x, timestep = sample(1)[0]
    model = reading(lambda o, x: x * next(iter(o.factors)))
    cached = fxcache.transform(model, NEVER)
    for factors, kind in ((iter([2.0]), "list_iterator"), ((v for v in [2.0]), "generator")):
        with pytest.raises(OpaqueInputError, match=f"options.*{kind}"):
            cached(x, timestep, types.SimpleNamespace(factors=factors))
    with pytest.raises(OpaqueInputError, match="100,000"):
        cached(x, timestep, types.SimpleNamespace(factors=list(range(200_000))))
    option = types.SimpleNamespace(factors=[2.0])
    assert torch.equal(cached(x, timestep, option), model(x, timestep, option))


class Mode(enum.Enum):
    WARM = 1.5
    COLD = 0.5


@dataclasses.dataclass
class Guide:
    scale: float
    steps: list[int]


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    scale: float


Pair = collections.namedtuple("Pair", "first second")
NAME = uuid.uuid5(uuid.NAMESPACE_DNS, "fxcache")
EQUAL: dict[str, Callable[[], Any]] = {
    "numpy array": lambda: np.array([2.0, 3.0]),
    "numpy scalar": lambda: np.float32(2.0),
    "uuid": lambda: uuid.UUID(str(NAME)),
    "range": lambda: range(3),
    "slice": lambda: slice(1, 3),
    "path": lambda: pathlib.Path("a/b"),
    "slots": lambda: Slotted(2.0),
    "dataclass": lambda: Guide(2.0, [1]),
    "slotted dataclass": lambda: Frozen(2.0),
    "namedtuple": lambda: Pair(1, [2]),
    "enum": lambda: Mode.WARM,
    "deque": lambda: collections.deque([1, 2], 3),
    "mapping proxy": lambda: types.MappingProxyType({"a": [1]}),
    "set": lambda: {1, 2},
    "bytearray": lambda: bytearray(b"ab"),
    "ordered dict": lambda: collections.OrderedDict(a=1),
    "random": lambda: random.Random(3),
    "function of torch": lambda: torch.nn.functional.gelu,
}


FEW_EQUAL = ("numpy array", "slots", "dataclass", "enum", "mapping proxy", "set", "random")


@pytest.mark.parametrize("kind", sweep(EQUAL, FEW_EQUAL))
def test_b2_equal_options_are_captured_once(kind: str) -> None:
    cached = follow(reading(lambda o, x: x + 1), [lambda: [EQUAL[kind]()]] * 3)
    assert captures(cached) == 1


def test_b2_a_generator_of_random_numbers_is_one_object() -> None:
    generator = torch.Generator()
    cached = follow(reading(lambda o, x: x + 1), [lambda: [generator]] * 3)
    assert captures(cached) == 1


def test_b2_options_that_differ_are_told_apart() -> None:
    model = reading(lambda o, x: x * float(np.asarray(o[0]).sum()) + o[1].by + o[1].inner[0])
    options = [
        lambda v=v, w=w: (np.array([v, 3.0]), Slotted(w))
        for v, w in ((2.0, 1.0), (3.0, 1.0), (3.0, 2.0), (2.0, 1.0))
    ]
    assert captures(follow(model, options)) == 3


def test_b2_an_array_written_to_in_place() -> None:
    array = np.ones(2)

    def written(value: float) -> Any:
        array[0] = value
        return array

    follow(reading(lambda o, x: x * float(o[0])), [lambda v=v: written(v) for v in (1.0, 2.0, 1.0)])


class Hook(nn.Module):
    """A block that is handed an option dictionary, as ComfyUI's are."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8)

    def forward(self, x: Tensor, transformer_options: dict[str, Any]) -> Tensor:
        for patch in transformer_options["patches"].get("attn1_patch", []):
            x = patch(x, transformer_options)
        return x + self.mix(x)


class Comfy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Hook() for _ in range(4))

    def forward(self, x: Tensor, timestep: Tensor, transformer_options: dict[str, Any]) -> Tensor:
        for block in self.blocks:
            x = block(x, transformer_options=transformer_options)
        return x


class Patcher:
    def __init__(self, by: float) -> None:
        self.by = by
        self.gate = nn.Linear(8, 8)

    def patch(self, x: Tensor, extra: dict[str, Any]) -> Tensor:
        return x + self.by * self.gate(x) * len(extra["cond_or_uncond"])


def test_b2_options_like_comfyuis_are_captured_once_and_cached() -> None:
    model = build(Comfy)
    cached, plain = fxcache.transform(model, EAGER), fxcache.transform(model, NEVER)
    patcher = Patcher(0.1)
    for parameter in patcher.gate.parameters():
        parameter.requires_grad_(False)

    def options() -> dict[str, Any]:
        return {
            "cond_or_uncond": [0],
            "uuids": [uuid.UUID(str(NAME))],
            "sample_sigmas": np.linspace(1, 0, 5),
            "block_range": range(4),
            "patches": {"attn1_patch": [patcher.patch]},
            "callbacks": {"before": [lambda x: x]},
        }

    with torch.no_grad():
        for x, timestep in sample(4):
            cached(x, timestep, options())
            assert torch.equal(plain(x, timestep, options()), model(x, timestep, options()))
    assert captures(cached) == captures(plain) == 1
    assert len(cached.stats()["default"].cached_steps) == 3
