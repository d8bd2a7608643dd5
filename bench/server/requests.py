"""What clients ask for."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

STYLES = ("pipeline", "steps")
THRESHOLD, PLAN = "threshold", "plan"  # settings of one kind share a graph
SETTINGS = (
    (THRESHOLD, "F1B0_W1M0MC2_T1O1_R0.4"),
    (THRESHOLD, "F1B0_W2M0MC3_T1O1_R0.2"),
    (THRESHOLD, "C0_Q0_NONE"),
    (PLAN, "P{steps}K{computed}"),
    (PLAN, "P{steps}K{computed}"),
)
CANCELLED = 0.1  # share of the requests


@dataclass(frozen=True)
class Request:
    """One call of a client.

    style: drawn by diffusers' pipeline, or in steps that alternate with those of other requests.
    labels: classes, a picture each. size: pixels a side. guidance: above 1 there are two calls a step.
    kind, setting: of the cache. cancel: after so many steps; None: it is drawn to the end.
    """

    style: str
    labels: tuple[int, ...]
    seed: int
    size: int
    steps: int
    guidance: float
    kind: str
    setting: str
    cancel: int | None = None


def catalogue(count: int, seed: int = 0) -> list[Request]:
    """Different requests; none is cancelled."""
    draw = random.Random(seed)
    return [_request(draw, number) for number in range(count)]


def incoming(known: list[Request], count: int, seed: int) -> list[Request]:
    """Requests as they arrive: each one of the catalogue's, some of them cancelled on the way."""
    draw = random.Random(seed)
    chosen = draw.choices(known, k=count)
    return [
        replace(one, cancel=draw.randrange(1, one.steps)) if draw.random() < CANCELLED else one
        for one in chosen
    ]


def _request(draw: random.Random, number: int) -> Request:
    steps = draw.choice((3, 4, 6))
    kind, setting = draw.choice(SETTINGS)
    return Request(
        style=draw.choice(STYLES),
        labels=tuple(draw.randrange(10) for _ in range(draw.choice((1, 1, 1, 1, 2)))),
        seed=number,
        size=draw.choice((20, 20, 28, 36)),
        steps=steps,
        guidance=draw.choice((1.0, 1.0, 1.0, 2.0)),
        kind=kind,
        setting=setting.format(steps=steps, computed=steps // 2 + 1),
    )
