"""Python state that a forward reads or writes: S5, S12, S13, B5."""

from __future__ import annotations

import functools
import gc
import threading
import types
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import fxcache
import tests.behaviour.faults.base as base_module
from fxcache.errors import FxcacheError
from tests.behaviour.faults.base import EAGER, NEVER, WIDTH, Base, Block, build, sample


def pair(kind: Callable[[], nn.Module], config: str = NEVER, **options: Any) -> tuple[Any, Any, Any]:
    """A model, its twin, and the twin's transform."""
    model, twin = build(kind), build(kind)
    return model, twin, fxcache.transform(twin, config, **options)


def same_or_refused(model: Any, cached: Any, steps: int = 4) -> int:
    """Every call is the model's, or refused; how many were served."""
    served = 0
    with torch.no_grad():
        for call in sample(steps):
            wanted = model(*call)
            try:
                assert torch.equal(cached(*call), wanted)
            except FxcacheError:
                return served
            served += 1
    return served


class Counting(Base):
    def __init__(self) -> None:
        super().__init__()
        self.cnt = 0
        self.table = torch.arange(1.0, WIDTH + 1)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        self.cnt += 1
        return super().forward(x * self.table + self.cnt, timestep)


def test_s5_a_counter_counts() -> None:
    model, twin, cached = pair(Counting)
    assert same_or_refused(model, cached) == 4
    assert twin.cnt == model.cnt == 4


def test_s5_a_table_is_replaced() -> None:
    model, twin, cached = pair(Counting)
    same_or_refused(model, cached, 2)
    for m in (model, twin):
        m.table = m.table.flip(0)
    assert same_or_refused(model, cached) > 0


class Remembering(Base):
    """A memo of the text that goes stale, as F5-TTS has it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(WIDTH, WIDTH)
        self.text: Tensor | None = None

    def forward(self, x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        if self.text is None:
            self.text = self.embed(text)
        return super().forward(x + self.text, timestep)


def test_s5_a_memo_of_text_is_kept_and_cleared() -> None:
    model, twin, cached = pair(Remembering)
    texts = [torch.randn(1, 5, WIDTH, generator=torch.Generator().manual_seed(s)) for s in range(2)]
    with torch.no_grad():
        for text in (texts[0], texts[1], texts[1]):
            for call in sample(3):
                assert torch.equal(cached(*call, text), model(*call, text))
            assert torch.equal(twin.text, model.text)
            if text is texts[1]:
                model.text = twin.text = None
    assert len(cached._specializations.all()) <= 8


class Keeping(Base):
    """Keeps its features for somebody to look at, and a history."""

    def __init__(self) -> None:
        super().__init__()
        self.features: Tensor | None = None
        self.shapes: dict[str, Any] = {}
        self.helper = types.SimpleNamespace(last=None)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        self.shapes["x"] = tuple(x.shape)
        self.helper.last = timestep * 2
        x = super().forward(x, timestep)
        self.features = x + 1
        return x


def test_s5_what_a_forward_keeps_is_kept() -> None:
    model, twin, cached = pair(Keeping)
    with torch.no_grad():
        for call in [*sample(3), *sample(3, tokens=7)]:
            assert torch.equal(cached(*call), model(*call))
            assert torch.equal(twin.features, model.features)
            assert torch.equal(twin.helper.last, model.helper.last)
            assert twin.shapes == model.shapes


SCALES = {"now": 1.0}


class Reading(Base):
    """Reads its settings everywhere that Python has a place for them."""

    kind_scale = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.strength = 1.0
        self.options = {"deep": {"scale": [1.0, 2.0]}}
        self.config = types.SimpleNamespace(shift=0.5)
        self.bias = torch.zeros(WIDTH)
        self.inner = Inner()

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        x = x * self.strength * self.options["deep"]["scale"][0] + self.config.shift + self.bias
        x = x * SCALES["now"] * self.kind_scale * getattr(self, "gain_" + "a", 1.0)
        return self.inner(x)

    def set_strength(self, value: float) -> None:
        self.strength = value


class Inner(nn.Module):
    """Holds the list, so that it is no leaf."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            if getattr(block, "enabled", True):
                x = block(x)
        return x


CHANGES: dict[str, Callable[[Any], Any]] = {
    "attribute": lambda m: setattr(m, "strength", 0.5),
    "method": lambda m: m.set_strength(0.25),
    "deep option": lambda m: m.options["deep"]["scale"].__setitem__(0, 3.0),
    "helper object": lambda m: setattr(m.config, "shift", 0.0),
    "plain tensor": lambda m: setattr(m, "bias", torch.ones(WIDTH)),
    "tensor written to": lambda m: m.bias.add_(1),
    "new attribute": lambda m: setattr(m, "gain_a", 2.0),
    "attribute of a block": lambda m: setattr(m.inner.blocks[2], "enabled", False),
    "instance forward": lambda m: setattr(m, "forward", lambda x, timestep: m.inner(x) * 2),
    "inner instance forward": lambda m: setattr(m.inner, "forward", lambda x: x * 3),
    "block list": lambda m: setattr(m.inner, "blocks", m.inner.blocks[:3]),
    "hook on an inner module": lambda m: m.inner.register_forward_hook(lambda mod, a, out: out + 1),
    "pre-hook on an inner module": lambda m: m.inner.register_forward_pre_hook(lambda mod, a: (a[0] * 2,)),
    "hook on a block": lambda m: m.inner.blocks[1].register_forward_hook(lambda mod, a, out: out + 1),
}


@pytest.mark.parametrize("change", CHANGES)
def test_s12_s13_what_changes_between_calls_counts(change: str) -> None:
    model, twin, cached = pair(Reading)
    assert same_or_refused(model, cached) == 4
    for m in (model, twin):
        CHANGES[change](m)
    if change == "instance forward":  # bound to the model that it was made for
        twin.forward = lambda x, timestep: twin.inner(x) * 2
    served = same_or_refused(model, cached)
    assert served == 4 or change == "inner instance forward"  # which calls no block any more


def test_s12_a_class_is_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, cached = pair(Reading)
    same_or_refused(model, cached)
    monkeypatch.setattr(Reading, "kind_scale", 3.0)
    assert same_or_refused(model, cached) == 4
    old = Inner.forward
    monkeypatch.setattr(Inner, "forward", lambda self, x: old(self, x) - 1)
    assert same_or_refused(model, cached) == 4
    monkeypatch.setattr(Reading, "forward", lambda self, x, timestep: self.inner(x) + 5)
    assert same_or_refused(model, cached) == 4


def test_s12_a_global_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, cached = pair(Reading)
    same_or_refused(model, cached)
    monkeypatch.setitem(SCALES, "now", 2.0)
    assert same_or_refused(model, cached) == 4
    monkeypatch.setattr(f"{__name__}.SCALES", {"now": 5.0})
    assert same_or_refused(model, cached) == 4


def test_s13_hooks_come_and_go() -> None:
    model, twin, cached = pair(Reading)
    steer = torch.ones(WIDTH)
    handles = [m.inner.register_forward_hook(lambda mod, a, out: out + steer) for m in (model, twin)]
    assert same_or_refused(model, cached) == 4
    for handle in handles:
        handle.remove()
    assert same_or_refused(model, cached) == 4
    handle = nn.modules.module.register_module_forward_hook(
        lambda mod, a, out: out + 1 if isinstance(mod, Inner) else None
    )
    try:
        assert same_or_refused(model, cached) == 4
    finally:
        handle.remove()


def test_s12_going_back_uses_the_first_graph_again() -> None:
    model, twin, cached = pair(Reading)
    for value in (1.0, 0.5, 1.0, 0.5):
        model.strength = twin.strength = value
        assert same_or_refused(model, cached) == 4
    assert len(cached._specializations.all()) == 2


@functools.cache
def users_own(number: int) -> list[int]:
    return [number]


@functools.lru_cache(maxsize=8)
def frequencies(tokens: int) -> Tensor:
    return torch.arange(tokens, dtype=torch.float32)[:, None]


class Tabulated(Base):
    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return super().forward(x + frequencies(int(x.shape[1])), timestep)


def test_b5_caches_of_others_are_left_alone() -> None:
    kept = users_own(3)
    model, _, cached = pair(Tabulated)
    assert same_or_refused(model, cached) == 4
    cached.stats()
    assert users_own(3) is kept
    assert type(frequencies(5)) is Tensor


def test_b5_a_cache_that_the_collector_does_not_see_is_emptied() -> None:
    frequencies.cache_clear()
    gc.freeze()  # as servers do before they fork; what the test run froze must stay so, too
    x, timestep = sample(1)[0]
    with torch.no_grad():
        fxcache.transform(build(Tabulated), NEVER)(x, timestep)
    assert type(frequencies(5)) is Tensor


def unless_exporting(function: Any) -> Any:
    """As diffusers' decorator of the kind: the cache stands in a closure."""
    remembered = functools.lru_cache(maxsize=8)(function)

    def inner(*args: Any) -> Any:
        return function(*args) if torch.compiler.is_exporting() else remembered(*args)

    return inner


class Rotary(nn.Module):
    @unless_exporting
    def table(self, tokens: int) -> Tensor:
        return torch.arange(float(tokens)).reshape(1, -1, 1) / 9

    @functools.lru_cache(maxsize=8)  # noqa: B019
    def half(self, tokens: int) -> Tensor:
        return torch.arange(float(tokens)).reshape(1, -1, 1) / 18

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table(x.shape[1]) + self.half(x.shape[1])


class Turning(Base):
    def __init__(self) -> None:
        super().__init__()
        self.rotary = Rotary()

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return super().forward(self.rotary(x), timestep)


def test_b5_caches_of_methods_that_the_collector_does_not_see_are_emptied() -> None:
    gc.freeze()
    model = build(Turning)
    x, timestep = sample(1)[0]
    with torch.no_grad():
        cached = fxcache.transform(model, NEVER)
        assert torch.equal(cached(x, timestep), model(x, timestep))
    assert type(model.rotary.table(x.shape[1])) is type(model.rotary.half(x.shape[1])) is Tensor


def test_s11_nobody_else_is_told_of_a_capture() -> None:
    seen: list[bool] = []
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            seen.append(bool(torch.compiler.is_compiling() or torch.compiler.is_exporting()))

    model = build(Base)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        with torch.no_grad():
            for tokens in range(2, 8):
                fxcache.transform(model, EAGER)(*sample(1, tokens=tokens)[0])
    finally:
        over.set()
        thread.join()
    assert seen
    assert not any(seen)


def test_s5_what_runs_when_memory_is_collected_is_not_the_forwards() -> None:
    collected: list[str] = []

    def note(phase: str, info: dict[str, int]) -> None:
        collected.append(phase)
        SCALES["collections"] = len(collected)

    class Collecting(Base):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            gc.collect()
            return super().forward(x, timestep)

    gc.callbacks.append(note)
    try:
        model, _, cached = pair(Collecting)
        assert same_or_refused(model, cached) == 4
    finally:
        gc.callbacks.remove(note)
        del SCALES["collections"]
    assert collected
    assert len(cached._specializations.all()) == 1
    assert not cached._specializations.all()[0].program.capture.finals


def test_s12_a_flop_counter_around_a_call_counts_as_around_the_model() -> None:
    model, _, cached = pair(Reading)
    counts: list[int] = []
    for called in (model, cached, cached, model):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            assert torch.equal(called(*sample(1)[0]), model(*sample(1)[0]))
        counts.append(counter.get_total_flops())
    assert len(set(counts)) == 1


class Tally:
    """State that no instance holds."""

    count = 0
    table: ClassVar[dict[str, Any]] = {}

    @classmethod
    def next(cls) -> int:
        cls.count += 1
        return cls.count


def counts_on_a_class(model: Any) -> float:
    return Tally.next()


def counts_on_its_class(model: Any) -> float:
    type(model).calls += 1
    return model.calls


def counts_on_a_subclass(model: Any) -> float:
    model.__class__.total = model.total + 1  # what it reads first is its base's
    return model.total


def counts_in_a_table_of_a_class(model: Any) -> float:
    Tally.table["calls"] = Tally.table.get("calls", 0) + 1
    return Tally.table["calls"]


def sets_by_name(model: Any) -> float:
    setattr(Tally, "count", Tally.count + 1)  # noqa: B010
    return Tally.count


def counts_on_a_module(model: Any) -> float:
    import tests.behaviour.faults.base as module

    module.calls = getattr(module, "calls", 0) + 1  # type: ignore[attr-defined]
    return module.calls  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    "count",
    [
        counts_on_a_class,
        counts_on_its_class,
        counts_on_a_subclass,
        counts_in_a_table_of_a_class,
        sets_by_name,
        counts_on_a_module,
    ],
)
def test_s5_what_the_forward_counts_on_classes_and_modules(count: Callable[[Any], float]) -> None:
    class Root(Base):
        total = 0

    def fresh() -> Any:
        class Model(Root):
            calls = 0

            def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
                return super().forward(x * (1 + 0.1 * count(self)), timestep)

        Tally.count = 0
        Tally.table.clear()
        vars(base_module).pop("calls", None)
        return build(Model)

    with torch.no_grad():
        model = fresh()
        expected = [model(*call) for call in sample()]
        cached = fxcache.transform(fresh(), NEVER)
        assert all(torch.equal(cached(*call), one) for call, one in zip(sample(), expected, strict=True))
    vars(base_module).pop("calls", None)
