"""Rounds of requests, the same ones to the plain model now and then, and what there is to say of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .models import CachedModels, PlainModels
from .requests import Request, catalogue, incoming
from .serving import Served, alone, serve, wrong
from .watching import Sample, sample

ROUND = 250
PERCENTS = (50, 90, 99)
COMPARED = 5  # every so many rounds the same requests are served by the plain model, too


@dataclass
class Found:
    """What was seen. latencies: seconds of a request, of the rounds that both served, by what served them."""

    served: int = 0
    cancelled: int = 0
    wrong: list[Request] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    latencies: dict[str, list[float]] = field(default_factory=lambda: {"plain": [], "cached": []})

    def add(self, served: Sequence[Served], expected: Mapping[Request, Tensor]) -> None:
        self.served += len(served)
        self.cancelled += sum(one.latents is None for one in served)
        self.wrong += wrong(served, expected)

    def summary(self) -> dict[str, Any]:
        """As numbers: of latencies the ratio of the two, which a busy machine slows alike."""
        cached, plain = (self.latencies[name] for name in ("cached", "plain"))
        ratio = {f"p{n}": round(_at(cached, n) / _at(plain, n), 3) for n in PERCENTS if cached}
        return {
            "requests": self.served,
            "cancelled": self.cancelled,
            "wrong": len(self.wrong),
            "captures": self.samples[-1].captures,
            "latency_cached_over_plain": ratio,
            "requests_compared": len(self.latencies["cached"]),
            "samples": [vars(one) for one in self.samples],
        }


def run(
    count: int, threads: int, distinct: int, seconds: float, say: Callable[[Found], None] = lambda _: None
) -> Found:
    """Serve `count` requests, or as many as there is time for, and look at each.

    distinct: different requests among them; each is drawn alone first.
    """
    known = catalogue(distinct)
    expected = alone(CachedModels(), known)
    cached, plain, found = CachedModels(), PlainModels(), Found()
    end = time.monotonic() + seconds
    for number, first in enumerate(range(0, count, ROUND)):
        requests = incoming(known, min(ROUND, count - first), seed=number)

        def look(after: int = first + len(requests)) -> None:
            found.samples.append(sample(after, cached))

        if compared := number % COMPARED == COMPARED - 1:  # never the first, in which graphs are captured
            found.latencies["plain"] += [one.seconds for one in serve(plain, requests, threads)]
        served = serve(cached, requests, threads, first, look)
        if compared:
            found.latencies["cached"] += [one.seconds for one in served]
        found.add(served, expected)
        say(found)
        if time.monotonic() > end:
            break
    return found


def _at(values: Sequence[float], percent: int) -> float:
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)]
