"""Eight threads over four models: captures, plain calls, compilations, looks and statistics at once."""

from __future__ import annotations

import functools
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fxcache

from .base import NEVER, WIDTH, Base, build

SECONDS = 3.0
PATIENCE = 120.0  # for all threads to come to an end; more is a deadlock


def _table(tokens: int) -> Tensor:
    return torch.linspace(0.0, 1.0, tokens)[:, None] * torch.ones(WIDTH)


class Memoizing(Base):
    """Keeps a table for each size in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[int, Tensor] = {}

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        tokens = x.shape[1]
        if tokens not in self.tables:
            self.tables[tokens] = _table(tokens)
        return super().forward(x + self.tables[tokens], timestep)


class Cached(Base):
    """Asks a function that remembers what it gave for each size."""

    @staticmethod
    @functools.lru_cache(maxsize=4)
    def table(tokens: int) -> Tensor:
        return _table(tokens)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return super().forward(x + self.table(x.shape[1]), timestep)


@torch.compiler.disable
def _skipped(x: Tensor) -> Tensor:
    return x * 1.25


class Skipping(Base):
    """Has a helper that its author keeps from being compiled."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return super().forward(_skipped(x), timestep)


KINDS: tuple[Callable[[], nn.Module], ...] = (Base, Memoizing, Cached, Skipping)


class Stress:
    """Runs functions again and again, each in a thread of its own, until the time is over."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.rounds: dict[str, int] = {}
        self._end = time.monotonic() + SECONDS

    def run(self, work: dict[str, Callable[[random.Random], None]]) -> None:
        threads = [threading.Thread(target=self._repeat, args=pair, daemon=True) for pair in work.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads), "threads wait for each other"
        if self.failures:
            raise self.failures[0]

    def _repeat(self, name: str, work: Callable[[random.Random], None]) -> None:
        numbers = random.Random(name)
        try:
            while not self.rounds.get(name) or (time.monotonic() < self._end and not self.failures):
                work(numbers)
                self.rounds[name] = self.rounds.get(name, 0) + 1
        except BaseException as error:
            self.failures.append(error)


def _inputs(numbers: random.Random, tokens: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(numbers.randrange(1000))
    return torch.randn(1, tokens, WIDTH, generator=generator), torch.full((1,), 500.0)


def _calls(model: nn.Module, twin: nn.Module, sizes: int) -> Callable[[random.Random], None]:
    """Calls of `model`, compared with those of a twin that nobody else has."""

    def work(numbers: random.Random) -> None:
        inputs = _inputs(numbers, numbers.randint(2, sizes))
        with torch.no_grad():
            assert torch.equal(model(*inputs), twin(*inputs))

    return work


def _captures(model: nn.Module, twin: nn.Module) -> Callable[[random.Random], None]:
    """Calls of which many are the first of their kind: another dtype of the time, or a new cached model."""
    holder: list[Any] = [fxcache.transform(model, NEVER)]

    def work(numbers: random.Random) -> None:
        if numbers.random() < 0.3:
            holder[0] = fxcache.transform(model, NEVER)
        _calls(holder[0], twin, 9)(numbers)

    return work


def _compile(numbers: random.Random) -> None:
    factor = numbers.random()

    def function(x: Tensor) -> Tensor:
        return x * factor + x.sin()

    x = torch.ones(numbers.randint(2, 9))
    assert torch.equal(torch.compile(function, backend="eager")(x), function(x))


def _look(numbers: random.Random) -> None:
    for _ in range(100):
        assert not torch.compiler.is_compiling(), "a capture of another thread shows"
        time.sleep(0)


def test_s11_eight_threads_over_four_models() -> None:
    models = [build(kind) for kind in KINDS]
    observed = [fxcache.transform(model, NEVER) for model in models]

    def statistics(numbers: random.Random) -> None:
        chosen = numbers.choice(observed)
        inputs = _inputs(numbers, 5)
        with torch.no_grad():
            chosen(*inputs)
        assert chosen.stats().steps >= 1

    def plain(numbers: random.Random) -> None:
        number = numbers.randrange(len(KINDS))
        _calls(models[number], twins[number], 9)(numbers)

    twins = [build(kind) for kind in KINDS]
    work = {
        **{f"captures {i}": _captures(model, build(KINDS[i])) for i, model in enumerate(models)},
        "plain": plain,
        "stats": statistics,
        "plain or compile": lambda numbers: numbers.choice((plain, _compile))(numbers),
        "compile": _compile,
    }
    assert len(work) == 8
    stress = Stress()
    stress.run(work)
    assert set(stress.rounds) == set(work)


def test_s11_no_other_thread_sees_that_a_capture_is_under_way() -> None:
    """Without `torch.compile` beside it, which sets the very same flag for all threads itself."""
    models = [build(kind) for kind in KINDS]
    work = {f"captures {i}": _captures(model, build(KINDS[i])) for i, model in enumerate(models)}
    for i in range(4):
        work[f"look {i}"] = _look
    Stress().run(work)


def test_s11_one_cached_model_is_called_and_reset_by_several_threads() -> None:
    # Each new size changes the memo, and with it the model: nearly every call captures, and of the usual 16
    # graphs even one thread is refused more after some 18 calls.
    cached = fxcache.transform(build(Memoizing), NEVER, max_captures=256)
    work: dict[str, Callable[[random.Random], None]] = {
        f"calls {i}": _calls(cached, build(Memoizing), 12) for i in range(5)
    }
    work["reset"] = lambda numbers: cached.reset()
    work["stats"] = lambda numbers: str(cached.stats()) and None
    Stress().run(work)


class Waiting(Base):
    """Tells when its forward runs, and takes its time."""

    entered = threading.Event()

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        self.entered.set()
        time.sleep(0.3)
        return super().forward(x, timestep)


def test_s11_a_compilation_that_begins_in_a_capture_leaves_torch_as_it_was() -> None:
    """Both put functions of their own in the place of torch's, and put back what they found."""
    before = nn.Module.__call__, torch.fx.graph_module._forward_from_src
    Waiting.entered.clear()
    model, inputs = build(Waiting), _inputs(random.Random(1), 5)
    found: list[bool] = []

    def backend(graph: Any, examples: Any) -> Any:
        time.sleep(1.0)
        return graph.forward

    def compile_meanwhile() -> None:
        assert Waiting.entered.wait(PATIENCE)
        x = torch.ones(3)
        found.append(torch.equal(torch.compile(lambda x: x * 2 + 1, backend=backend)(x), x * 2 + 1))

    thread = threading.Thread(target=compile_meanwhile, daemon=True)
    thread.start()
    with torch.no_grad():
        assert torch.equal(fxcache.transform(model, NEVER)(*inputs), model(*inputs))
    thread.join(PATIENCE)
    assert found == [True]
    assert (nn.Module.__call__, torch.fx.graph_module._forward_from_src) == before


def test_threads_that_need_the_same_graph_make_one() -> None:
    cached = fxcache.transform(build(Cached), NEVER)
    together = threading.Barrier(4)
    outputs: list[Tensor] = []

    def call() -> None:
        together.wait(PATIENCE)
        with torch.no_grad():
            outputs.append(cached(torch.ones(1, 4, WIDTH), torch.ones(1)))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(cached.specializations()) == 1
    assert len(outputs) == 4 and all(torch.equal(output, outputs[0]) for output in outputs)
