"""B10: a compiled cached model outlives any number of changes of what its code was compiled for."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache.backends.recompilation import HAS_LIMIT, LIMIT, RESTARTS

from .base import WIDTH, Base, Block, build, sample

OFTEN = "F1B0_W0M0MC0_T0O1_R1e-9"  # checks every step, caches none


class Adapted(nn.Module):
    """A linear layer with low-rank adapters, as PEFT's: a scale for each, and which are active."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.ModuleDict(), nn.ModuleDict()
        self.scaling: dict[str, float] = {}
        self.active: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        result = self.base(x)
        for name in self.active:
            result = result + self.up[name](self.down[name](x)) * self.scaling[name]
        return result

    def add(self, name: str, scale: float, rank: int = 2) -> None:
        self.down[name] = nn.Linear(WIDTH, rank, bias=False)
        self.up[name] = nn.Linear(rank, WIDTH, bias=False)
        self.scaling[name], self.active = scale, [name]
        self.requires_grad_(False)


class WithAdapters(Base):
    def __init__(self, blocks: int = 4) -> None:
        super().__init__(blocks)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.mix = Adapted(block.mix)  # type: ignore[assignment]
            block.mix.add("first", 1.0)

    @property
    def adapted(self) -> list[Adapted]:
        return [m for m in self.modules() if isinstance(m, Adapted)]


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


def close_after_changes(model: WithAdapters, changes: list[object], options: dict[str, object]) -> None:
    plain = fxcache.transform(model, OFTEN)
    compiled = fxcache.compile(fxcache.transform(model, OFTEN), **options)  # type: ignore[arg-type]
    with torch.no_grad():
        for i, change in enumerate(changes):
            for layer in model.adapted:
                change(layer)  # type: ignore[operator]
            call = sample(steps=8)[i % 8]
            expected = model(*call)
            torch.testing.assert_close(compiled(*call), expected)
            torch.testing.assert_close(plain(*call), expected)


@pytest.mark.parametrize("mode", ["fused", "staged"])
def test_b10_scales_set_a_dozen_times(mode: str) -> None:
    def set_to(scale: float) -> object:
        return lambda layer: layer.scaling.update(first=scale)

    close_after_changes(
        build(WithAdapters), [set_to(0.1 * i) for i in range(14)], {"mode": mode, "backend": "eager"}
    )


def test_b10_adapters_swapped_a_dozen_times() -> None:
    def swap(i: int) -> object:
        return lambda layer: layer.add(f"adapter{i}", 0.5 + 0.1 * i, rank=1 + i % 3)

    close_after_changes(build(WithAdapters), [swap(i) for i in range(14)], {"backend": "eager"})


@pytest.mark.skipif(not HAS_LIMIT, reason="torch 2.11 has no limit for one function")
def test_b10_compiling_starts_over_and_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    def repeat(times: int) -> object:
        return lambda layer: layer.active.append("first") if times else None

    model = build(lambda: WithAdapters(2))
    changes = [repeat(i) for i in range(2 * RESTARTS + 8)]
    with caplog.at_level(logging.INFO, logger="fxcache"):  # with a limit of 2 every other change meets it
        close_after_changes(model, changes, {"backend": "eager", "recompile_limit": 2})
    said = [r.getMessage() for r in caplog.records if r.name == "fxcache"]
    assert RESTARTS <= sum("compiled anew" in m for m in said) <= 2 * RESTARTS  # of the step and of the miss
    assert any("no longer compiled" in m for m in said)
    assert LIMIT > 12


@pytest.mark.full
def test_b10_inductor() -> None:
    def set_to(scale: float) -> object:
        return lambda layer: layer.scaling.update(first=scale)

    close_after_changes(build(WithAdapters), [set_to(0.1 * i) for i in range(12)], {})


@pytest.mark.skipif(HAS_LIMIT, reason="since torch 2.12 there is one")
def test_b10_a_limit_that_this_torch_does_not_know_is_refused() -> None:
    with pytest.raises(fxcache.errors.BackendError, match=r"recompile_limit=2 .* needs torch 2\.12"):
        fxcache.compile(fxcache.transform(build(WithAdapters), OFTEN), recompile_limit=2)
