"""B13: numbers that a forward reads of its inputs: what is decided by one is guarded, not its value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import fxcache
from fxcache.errors import CaptureError, ExportError
from tests.behaviour.faults.base import EAGER, NEVER, Base, Block, build, sample
from tests.reference import CachedReference
from tests.sweep import sweep

STEPS = 28
TAYLOR = "F1B0_W2M0MC2_T1O1_R1000"


class Patched(Base):
    """Patched by a function of the sample and the noise level, as ComfyUI's models are."""

    def __init__(self, patch: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return super().forward(self.patch(x, timestep / 1000), timestep)


def by_item(x: Tensor, sigma: Tensor) -> Tensor:
    return x * 1.5 if sigma.item() > 0.5 else x


def by_item_of_some(x: Tensor, sigma: Tensor) -> Tensor:
    (first,) = sigma.tolist()
    return x * 1.5 if max(first, 0.25) * 2 > 1.0 else x


def by_bool(x: Tensor, sigma: Tensor) -> Tensor:
    return x * 1.5 if (sigma > 0.5).all() else x


def by_a_range(x: Tensor, sigma: Tensor) -> Tensor:
    s = sigma.max().item()
    return x * s if 0.25 <= s < 0.75 else x


def in_place(x: Tensor, sigma: Tensor) -> Tensor:
    level = torch.zeros_like(sigma)
    level += sigma * 2
    before = level.item()
    level.mul_(0.5)
    x = x.clone()
    if level.item() > 0.5 and before > 1.0:
        x.mul_(level.item()).add_(before)
    return x


def by_a_step(x: Tensor, sigma: Tensor) -> Tensor:
    return x * (1 + int(sigma.item() * 2))


PATCHES: dict[Callable[[Tensor, Tensor], Tensor], int] = {
    by_item: 2,
    by_item_of_some: 3,
    by_bool: 2,
    by_a_range: 3,
    in_place: 2,
    by_a_step: 3,  # twice the level is 2 in the first step
}


def captures(cached: Any) -> int:
    return len(cached._specializations.all())


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.__name__)
def test_b13_a_capture_for_each_outcome(patch: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = build(lambda: Patched(patch))
    cached = fxcache.transform(model, NEVER)
    with torch.no_grad():
        for x, timestep in sample(STEPS):
            assert torch.equal(cached(x, timestep), model(x, timestep))
    assert captures(cached) == PATCHES[patch]


@pytest.mark.parametrize("inference", [False, True])
def test_b13_a_decision_in_inference_mode(inference: bool) -> None:
    model = build(lambda: Patched(by_item))
    cached = fxcache.transform(model, NEVER)
    with torch.inference_mode(inference), torch.no_grad():
        for x, timestep in sample(6):
            assert torch.equal(cached(x, timestep), model(x, timestep))
    assert captures(cached) == 2


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: patch.__name__)
@pytest.mark.parametrize("config", sweep((EAGER, TAYLOR), (TAYLOR,)))
def test_b13_the_state_goes_on_from_one_graph_to_the_next(
    patch: Callable[[Tensor, Tensor], Tensor], config: str
) -> None:
    cached = fxcache.transform(build(lambda: Patched(patch)), config)
    blocks = [f"blocks.{i}" for i in range(4)]
    reference = CachedReference(
        build(lambda: Patched(patch)), blocks, fn=1, bn=0, order=int(config == TAYLOR)
    )
    with torch.no_grad():
        results = [cached(*inputs) for inputs in sample(STEPS)]
    hits = cached.stats()["default"].hits
    assert len(hits) == STEPS
    assert sum(hits) == (STEPS - 1 if config == EAGER else 18)
    for (x, timestep), result, hit in zip(sample(STEPS), results, hits, strict=True):
        expected = reference({"x": x, "timestep": timestep}, hit)
        if hit:  # a sum by weights and a ladder of differences round otherwise
            torch.testing.assert_close(result, expected)
        else:
            assert torch.equal(result, expected)


def test_b13_a_second_run_starts_clean_and_needs_no_graph() -> None:
    cached = fxcache.transform(build(lambda: Patched(by_item)), EAGER)
    with torch.no_grad():
        first, second = ([cached(*inputs) for inputs in sample(8)] for _ in range(2))
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a, b)
    assert captures(cached) == 2
    assert cached.stats()["default"].cached_steps == tuple(range(1, 8))


class Strong(Base):
    """Reads a setting besides the noise level."""

    strength = 1.0

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        if timestep.item() > 0.5:
            x = x * self.strength
        return super().forward(x, timestep)


def test_b13_the_state_does_not_outlive_a_change_of_the_model() -> None:
    model = build(Strong)
    cached = fxcache.transform(model, EAGER)
    with torch.no_grad():
        for i, (x, timestep) in enumerate(sample(6)):
            if i == 3:
                model.strength = 0.5
            result = cached(x, timestep)
            if i in (0, 3):
                assert torch.equal(result, model(x, timestep))
    assert cached.stats()["default"].cached_steps == (1, 2)


class Shorter(Base):
    """Leaves out a block late in a run: other blocks, so another state."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        for block in self.blocks if timestep.item() > 500 else list(self.blocks)[:-1]:
            x = block(x)
        return x


def test_b13_other_blocks_have_a_state_of_their_own() -> None:
    model = build(Shorter)
    cached = fxcache.transform(model, EAGER)
    with torch.no_grad():
        results = [(cached(*inputs), model(*inputs)) for inputs in sample(8)]
    assert torch.equal(*results[4])
    assert not torch.equal(*results[3])
    assert cached.stats()["default"].cached_steps == (1, 2, 3)


class Reading(Base):
    """Needs the value of what it reads, in several ways."""

    def __init__(self, does: Callable[[Tensor, Any], Tensor]) -> None:
        super().__init__()
        self.does = does

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return super().forward(self.does(x, timestep.item() if timestep.item() > 0 else 0.0), timestep)


VALUES: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "text": lambda x, t: x * len(f"{t:.3f}") + float(str(t * 2)),
    "float": lambda x, t: x * float(t),
    "table": lambda x, t: x * {1000.0: 2.0, 750.0: 3.0}.get(t, 1.0),
    "size": lambda x, t: x[:, : int(t) // 200],
    "range": lambda x, t: sum((x * i for i in range(int(t) // 200)), x),
}


@pytest.mark.parametrize("what", sweep(VALUES, ("table", "size")))
def test_b13_a_value_that_is_needed_is_guarded(what: str) -> None:
    model = build(lambda: Reading(VALUES[what]))
    cached = fxcache.transform(model, NEVER)
    with torch.no_grad():
        for x, timestep in [*sample(4), *sample(4)]:
            assert torch.equal(cached(x, timestep), model(x, timestep))
    assert captures(cached) == 4


class Deciding(Base):
    """Its blocks decide by what is read of the time."""

    class Block(Block):
        def forward(self, x: Tensor, level: float) -> Tensor:  # type: ignore[override]
            return x + self.mix(x) if level > 500 else x - self.mix(x) * level

    def __init__(self) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(Deciding.Block() for _ in range(4))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        level = timestep.item()
        for block in self.blocks:
            x = block(x, level)
        return x


def test_b13_a_decision_in_a_block() -> None:
    model = build(Deciding)
    cached = fxcache.transform(model, NEVER)
    with torch.no_grad():
        for x, timestep in sample(STEPS):
            assert torch.equal(cached(x, timestep), model(x, timestep))
    assert captures(cached) == 2


class Noisy(Base):
    """Decides by chance."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        if torch.rand(()).item() > 0.5:
            x = x * 2
        return super().forward(x, timestep)


def test_b13_a_decision_by_chance_is_refused() -> None:
    cached = fxcache.transform(build(Noisy), NEVER)
    with torch.no_grad(), pytest.raises(CaptureError, match="random numbers"):
        cached(*sample(1)[0])


class Computed(Base):
    """Decides by what a block computes."""

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        x = super().forward(x, timestep)
        return x * 2 if x.sum().item() > 0 else x


def test_b13_a_decision_by_what_a_block_computes_is_refused() -> None:
    cached = fxcache.transform(build(Computed), NEVER)
    with torch.no_grad(), pytest.raises(CaptureError, match=r"reads values that .* computes"):
        cached(*sample(1)[0])


def test_b13_sizes_stay_open() -> None:
    model = build(lambda: Patched(by_item))
    cached = fxcache.transform(model, NEVER)
    with torch.no_grad():
        for tokens in (5, 7, 9):
            for x, timestep in sample(4, tokens=tokens):
                assert torch.equal(cached(x, timestep), model(x, timestep))
    assert captures(cached) == 2


@pytest.mark.parametrize("mode", sweep(("fused", "single"), ("fused",)))
def test_b13_compiled(mode: str) -> None:
    model = build(lambda: Patched(by_a_range))
    plain = fxcache.transform(model, EAGER)
    cached = fxcache.compile(fxcache.transform(model, EAGER), mode=mode)
    with torch.no_grad():
        for x, timestep in sample(6):
            torch.testing.assert_close(cached(x, timestep), plain(x, timestep))
    assert captures(cached) == 3
    assert cached.stats()["default"].cached_steps == (1, 2, 3, 4, 5)


def test_b13_no_package_can_decide(tmp_path: Any) -> None:
    cached = fxcache.transform(build(lambda: Patched(by_item)), NEVER)
    x, timestep = sample(1)[0]
    with torch.no_grad(), pytest.raises(ExportError, match="reads values of its inputs"):
        fxcache.export(cached, tmp_path / "patched.pt2", {"x": x, "timestep": timestep})
