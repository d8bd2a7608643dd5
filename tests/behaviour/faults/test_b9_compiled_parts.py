"""B6, B9: parts that the user compiled are looked through by a capture, and stay compiled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxcache
from tests.sweep import sweep

from .base import EAGER, NEVER, WIDTH, Base, Block, build, sample


class Counter:
    """A compiler backend that runs graphs as they are and counts what it compiles and what it runs."""

    def __init__(self) -> None:
        self.compiled = self.runs = 0

    def __call__(self, graph: Any, inputs: Any) -> Callable[..., Any]:
        self.compiled += 1

        def run(*args: Any) -> Any:
            self.runs += 1
            return graph.forward(*args)

        return run


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


def compiled_blocks(model: Any, **options: Any) -> None:
    for block in model.blocks:
        block.compile(**options)


def wrapped_blocks(model: Any, **options: Any) -> None:
    for i, block in enumerate(model.blocks):
        model.blocks[i] = torch.compile(block, **options)


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).tanh()


class Parts(Base):
    """Blocks with a part of their own."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block.mix = Part()


def inner_parts(model: Any, **options: Any) -> None:
    for block in model.blocks:
        block.mix.compile(**options)


def wrapped_parts(model: Any, **options: Any) -> None:
    for block in model.blocks:
        block.mix = torch.compile(block.mix, **options)


def forwards(model: Any, **options: Any) -> None:
    for block in model.blocks:
        block.forward = torch.compile(block.forward, **options)


FORMS = (compiled_blocks, wrapped_blocks, inner_parts, wrapped_parts, forwards)


@pytest.mark.parametrize("how", FORMS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("fullgraph", sweep((False, True), (True,)))
def test_b9_compiled_parts_and_other_sizes(how: Callable[..., None], fullgraph: bool) -> None:
    model, counter = build(Parts), Counter()
    how(model, backend=counter, fullgraph=fullgraph)
    with torch.no_grad():
        for call in sample():
            model(*call)  # compiled now
        ran = counter.runs
        assert ran > 0
        cached = fxcache.transform(model, NEVER)
        for tokens in (5, 7, 9):
            for call in sample(tokens=tokens):
                assert torch.equal(cached(*call), model(*call))
        assert counter.runs > ran  # compiled still, in the cached model, too
        before = counter.runs
        cached(*sample()[0])
        assert counter.runs > before
        assert cached.stats()["default"].flops_done
        bound = dict(zip(("x", "timestep"), sample(tokens=3)[0], strict=True))
        assert str(fxcache.explain(model, EAGER, bound))


def test_b9_inductor_blocks() -> None:
    """The form that aborted the process."""
    model = build(Base)
    for block in model.blocks:
        block.compile(dynamic=True)
    with torch.no_grad():
        for tokens in (5, 7):
            model(*sample(tokens=tokens)[0])
        cached = fxcache.transform(model, NEVER)
        for tokens in (5, 7, 1):
            call = sample(tokens=tokens)[0]
            assert torch.equal(cached(*call), model(*call))
        assert cached.stats()
        bound = dict(zip(("x", "timestep"), sample(tokens=4)[0], strict=True))
        assert str(fxcache.explain(model, EAGER, bound))


def test_b6_helpers_stay_compiled() -> None:
    counter = Counter()

    @torch.compile(backend=counter)
    def scaled(x: Tensor) -> Tensor:
        return x * 1.5 + 0.5

    class Helped(Base):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            x = scaled(x)
            for block in self.blocks:
                x = block(x)
            return scaled(x)

    model, call = build(Helped), sample()[0]
    with torch.no_grad():
        fxcache.transform(model, EAGER)(*call)  # the first time that anything runs
        assert counter.compiled == 0
        model(*call)
        assert counter.compiled == 1 and counter.runs == 2
        fxcache.transform(model, EAGER)(*sample(tokens=7)[0])
        model(*call)
        assert counter.runs == 4


@torch.compile(backend="eager", fullgraph=True)
def normed(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


class HelpedBlock(Block):
    def forward(self, x: Tensor) -> Tensor:
        return x + normed(self.mix(x))


def test_b9_compiled_function_inside_a_block() -> None:
    class Helped(Base):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.blocks = nn.ModuleList(HelpedBlock() for _ in range(4))
            self.last = torch.compile(nn.Linear(WIDTH, WIDTH), backend="eager")

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            return self.last(super().forward(x, timestep))

    model = build(Helped)
    with torch.no_grad():
        model(*sample()[0])
        cached = fxcache.transform(model, NEVER)
        for tokens in (5, 6, 8):
            for call in sample(tokens=tokens):
                assert torch.equal(cached(*call), model(*call))
        assert cached.stats()


def test_b9_other_threads_compile_meanwhile() -> None:
    """A thread that runs compiled code while another captures runs it compiled."""
    counter, stop, runs = Counter(), threading.Event(), []

    @torch.compile(backend=counter)
    def double(x: Tensor) -> Tensor:
        return x * 2

    def busy() -> None:
        while not stop.is_set():
            before = counter.runs
            double(torch.ones(3))
            runs.append(counter.runs - before)

    double(torch.ones(3))
    thread = threading.Thread(target=busy)
    thread.start()
    try:
        with torch.no_grad():
            for tokens in range(3, 8):
                fxcache.transform(build(Base), EAGER)(*sample(tokens=tokens)[0])
    finally:
        stop.set()
        thread.join()
    assert runs and set(runs) == {1}


def test_b9_other_threads_run_the_same_compiled_blocks() -> None:
    model, counter = build(Base), Counter()
    compiled_blocks(model, backend=counter, dynamic=True)
    stop, runs, call = threading.Event(), [], sample()[0]

    def busy() -> None:
        with torch.no_grad():
            while not stop.is_set():
                before = counter.runs
                model(*call)
                runs.append(counter.runs - before)

    with torch.no_grad():
        model(*call)
    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(5):
            bound = dict(zip(("x", "timestep"), call, strict=True))
            fxcache.explain(model, EAGER, bound)
    finally:
        stop.set()
        thread.join()
    assert runs and set(runs) == {4}


def test_b9_everything_is_put_back() -> None:
    from torch._dynamo import eval_frame

    from fxcache.capture.uncompiled_functions import uncompiled

    before = eval_frame._callback_from_stance
    with pytest.raises(ValueError, match="x"), uncompiled(), uncompiled():
        raise ValueError("x")
    assert eval_frame._callback_from_stance is before
    counter = Counter()
    with torch.no_grad():
        torch.compile(torch.sin, backend=counter, fullgraph=True)(torch.ones(2))
    assert counter.runs == 1
