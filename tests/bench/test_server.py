"""`python -m bench.server`, short: threads, sizes, plans, contexts, cancellations on one set of weights."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from bench.server import rounds
from bench.server.models import CachedModels
from bench.server.requests import PLAN, STYLES, THRESHOLD, catalogue, incoming
from bench.server.serving import Worker, alone, serve, wrong
from bench.server.watching import sample

THREADS = 3
KNOWN = catalogue(12, seed=1)


@pytest.fixture(scope="module")
def models() -> Iterator[CachedModels]:
    yield CachedModels()


@pytest.fixture(scope="module")
def expected(models: CachedModels) -> dict[rounds.Request, torch.Tensor]:
    return alone(models, KNOWN)


def test_requests_are_mixed() -> None:
    for attribute, values in {"style": set(STYLES), "kind": {THRESHOLD, PLAN}, "size": {20, 28, 36}}.items():
        assert {getattr(one, attribute) for one in KNOWN} == values
    assert len({one.guidance for one in KNOWN}) == 2 and len({one.steps for one in KNOWN}) == 3


def test_every_picture_is_its_requests_and_nothing_stays(
    models: CachedModels, expected: dict[rounds.Request, torch.Tensor]
) -> None:
    captured = models.captures()
    seen: list[rounds.Sample] = []
    for number in range(2):
        requests = incoming(KNOWN, 30, seed=number)
        served = serve(models, requests, THREADS, number * 30, lambda: seen.append(sample(0, models)))
        assert len(served) == 30 and any(one.latents is None for one in served)
        assert wrong(served, expected) == []
        del served
    assert models.captures() == captured <= 6  # no kind of request is captured twice
    assert seen[1].tensors <= seen[0].tensors + 60  # records of contexts that were not there before
    assert seen[0].threads >= THREADS and threading.active_count() < seen[0].threads


@pytest.mark.parametrize("style", STYLES)
def test_a_cancelled_request_holds_no_more_than_one_that_was_drawn(models: CachedModels, style: str) -> None:
    request = next(one for one in KNOWN if one.style == style and one.setting.startswith("F1"))
    held = []
    for cancel in (None, request.steps - 1):
        models.reset()
        Worker(models).draw([(0, replace(request, cancel=cancel))])
        held.append(models.state_bytes())
    assert held[1] <= held[0]


def test_a_wrong_picture_would_be_noticed(
    models: CachedModels, expected: dict[rounds.Request, torch.Tensor]
) -> None:
    (served,) = Worker(models).draw([(0, KNOWN[0])])
    other = {**expected, KNOWN[0]: torch.nextafter(expected[KNOWN[0]], torch.tensor(9.0))}
    assert wrong([served], expected) == [] and wrong([served], other) == [KNOWN[0]]


def test_what_fails_in_a_thread_is_raised(models: CachedModels) -> None:
    with pytest.raises(ValueError, match="labels"):
        serve(models, [replace(KNOWN[0], labels=(99,))], THREADS)
