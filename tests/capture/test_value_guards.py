"""Values that Python code reads are checked on every call, however they change."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache import CachedTransformer
from fxcache.errors import CaptureError
from tests.behaviour.zoo.running import UNCACHED


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.linear(hidden).tanh()


class Lengths(nn.Module):
    """Gives back numbers that it reads from the mask."""

    def forward(self, mask: Tensor) -> list[int]:
        return mask.sum(dim=1).tolist()


class Reader(nn.Module):
    """Cuts the text by its mask, adds what a buffer says, and may read the time."""

    def __init__(self, read_time: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.lengths = Lengths()
        self.register_buffer("extra", torch.tensor([1]))
        self.read_time = read_time

    def forward(self, hidden: Tensor, timestep: Tensor, mask: Tensor) -> Tensor:
        (length, *_) = self.lengths(mask)
        if self.extra.item() > 1:
            hidden = hidden + self.extra
        if self.read_time and timestep > 500:
            hidden = hidden * float(timestep)
        hidden = hidden[:, :length]
        for block in self.blocks:
            hidden = block(hidden)
        return hidden.sum(dim=1)


HIDDEN = torch.linspace(-1, 1, 48).reshape(1, 6, 8)


def _pair(read_time: bool = False) -> tuple[Reader, CachedTransformer]:
    model = Reader(read_time).eval().requires_grad_(False)
    return model, fxcache.transform(model, UNCACHED)


def _same(model: Reader, cached: CachedTransformer, mask: Tensor, time: float = 1.0) -> bool:
    timestep = torch.tensor([time])
    return torch.equal(cached(HIDDEN, timestep, mask), model(HIDDEN, timestep, mask))


def _graphs(cached: CachedTransformer) -> int:
    return len(cached._specializations.all())


def test_another_mask_gets_another_graph_and_the_same_mask_does_not() -> None:
    model, cached = _pair()
    for mask in ([1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0]):
        assert _same(model, cached, torch.tensor([mask]))
    assert _graphs(cached) == 2


def test_a_write_to_the_same_mask_is_seen() -> None:
    model, cached = _pair()
    mask = torch.ones(1, 6, dtype=torch.int64)
    assert _same(model, cached, mask)
    mask[0, 3:] = 0
    assert _same(model, cached, mask)


def test_a_write_that_keeps_no_version_is_seen() -> None:
    model, cached = _pair()
    mask = torch.ones(1, 6, dtype=torch.int64)
    assert _same(model, cached, mask)
    mask.data[0, 4:] = 0
    assert _same(model, cached, mask)
    mask.numpy()[0, 2:] = 0
    assert _same(model, cached, mask)


def test_a_write_to_an_inference_tensor_is_seen() -> None:
    model, cached = _pair()
    with torch.inference_mode():
        mask = torch.ones(1, 6, dtype=torch.int64)
        assert _same(model, cached, mask)
        mask[0, 3:] = 0
        assert _same(model, cached, mask)


def test_a_buffer_that_is_read_is_guarded() -> None:
    model, cached = _pair()
    mask = torch.ones(1, 6, dtype=torch.int64)
    assert _same(model, cached, mask)
    model.extra.fill_(5)
    assert _same(model, cached, mask)


def test_guards_are_not_worked_out_again_while_nothing_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, cached = _pair()
    mask = torch.ones(1, 6, dtype=torch.int64)
    for _ in range(2):
        assert _same(model, cached, mask)
    (specialization,) = cached._specializations.all()
    guards = specialization.program.capture.values
    assert guards is not None
    runs: list[int] = []
    monkeypatch.setattr(guards, "program", lambda *inputs: runs.append(1))
    cached(HIDDEN, torch.tensor([0.5]), mask)
    cached(HIDDEN, torch.tensor([0.4]), mask.clone())
    assert not runs


def test_a_value_that_changes_on_every_step_is_refused_in_the_end() -> None:
    model, cached = _pair(read_time=True)
    mask = torch.ones(1, 6, dtype=torch.int64)
    with pytest.raises(CaptureError, match="change on every call"):
        for step in range(100):
            assert _same(model, cached, mask, time=999.0 - step)


def test_a_decision_that_rarely_changes_is_not_refused() -> None:
    model, cached = _pair(read_time=True)
    mask = torch.ones(1, 6, dtype=torch.int64)
    for step in range(40):
        assert _same(model, cached, mask, time=499.0 - step)
    assert _graphs(cached) == 1


def test_many_prompts_in_turn_are_served_by_forgetting_old_graphs() -> None:
    model, cached = _pair()
    masks = [torch.tensor([[1] * n + [0] * (6 - n)]) for n in range(1, 7)]
    for extra in range(1, 4):
        model.extra.fill_(extra)
        for mask in masks:
            for time in (2.0, 1.0):
                assert _same(model, cached, mask, time)
    assert _graphs(cached) <= 16
