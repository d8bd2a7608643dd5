"""Threads that take requests from a queue, and what became of each."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .drawing import Cancelled, by_pipeline, by_steps
from .models import CachedModels, PlainModels, pipeline
from .requests import Request

TOGETHER = 3  # requests that a thread draws in turn, step by step
Work = tuple[int, Request]


@dataclass(frozen=True)
class Served:
    """What became of a request. latents: None where it was cancelled. seconds: until it was done."""

    request: Request
    latents: Tensor | None
    seconds: float


class Worker:
    """One thread's pipelines, on models that it shares with the others."""

    def __init__(self, models: PlainModels) -> None:
        self._models = models
        self._pipelines: dict[str, Any] = {}

    def draw(self, batch: Sequence[Work]) -> list[Served]:
        """One request by the pipeline, or several in turn."""
        if batch[0][1].style == "steps":
            return list(self._in_turn(batch))
        return [self._one(*work) for work in batch]

    def _one(self, number: int, request: Request) -> Served:
        pipe = self._pipelines.get(request.kind)
        if pipe is None:
            pipe = self._pipelines[request.kind] = pipeline(self._models.of(request))
        begin = time.perf_counter()
        try:
            latents = by_pipeline(self._models, pipe, request, f"request-{number}")
        except Cancelled:
            return Served(request, None, time.perf_counter() - begin)
        return Served(request, latents, time.perf_counter() - begin)

    def _in_turn(self, batch: Sequence[Work]) -> Iterator[Served]:
        begin = time.perf_counter()
        running = {i: (request, by_steps(self._models, request, f"request-{i}")) for i, request in batch}
        for step in itertools.count():
            for number, (request, steps) in list(running.items()):
                latents = None
                try:
                    if step != request.cancel:
                        next(steps)
                        continue
                    steps.close()
                except StopIteration as done:
                    latents = done.value
                del running[number]
                yield Served(request, latents, time.perf_counter() - begin)
            if not running:
                return


def serve(
    models: PlainModels,
    requests: Sequence[Request],
    threads: int,
    first: int = 0,
    idle: Callable[[], object] = lambda: None,
) -> list[Served]:
    """Serve all in threads of their own, which end.

    first: number of the first request. idle: called when all is served, and the threads are still there.
    """
    waiting: queue.Queue[Sequence[Work] | None] = queue.Queue()
    served: list[Served] = []
    failures: list[Exception] = []

    def run() -> None:
        worker = Worker(models)
        while (batch := waiting.get()) is not None:
            try:
                if not failures:
                    served.extend(worker.draw(batch))
            except Exception as error:
                failures.append(error)
            finally:
                waiting.task_done()

    running = [threading.Thread(target=run) for _ in range(threads)]
    for batch in _batches(requests, first):
        waiting.put(batch)
    for thread in running:
        thread.start()
    waiting.join()
    idle()
    for _ in running:
        waiting.put(None)
    for thread in running:
        thread.join()
    if failures:
        raise failures[0]
    return served


def alone(models: CachedModels, known: Sequence[Request]) -> dict[Request, Tensor]:
    """What each request draws with nobody beside or before it."""
    found: dict[Request, Tensor] = {}
    for number, request in enumerate(known):
        models.reset()
        (served,) = Worker(models).draw([(number, request)])
        assert served.latents is not None, "no request of the catalogue is cancelled"
        found[request] = served.latents
    return found


def wrong(served: Sequence[Served], expected: Mapping[Request, Tensor]) -> list[Request]:
    """The requests that drew something else than alone, by a bit or more."""
    return [
        one.request
        for one in served
        if one.latents is not None and not torch.equal(one.latents, expected[one.request])
    ]


def _batches(requests: Sequence[Request], first: int) -> Iterator[Sequence[Work]]:
    """A request for the pipeline is work of its own; the others are drawn together."""
    together: list[Work] = []
    for number, request in enumerate(requests, first):
        if request.style == "pipeline":
            yield [(number, request)]
            continue
        together.append((number, request))
        if len(together) == TOGETHER:
            yield together
            together = []
    if together:
        yield together
