"""What a step takes: on the device, and of the host."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from bench.overhead import turns


class HostEvent:
    """Stands where a device has an event; the processor's time, which on one thread is the step's."""

    def __init__(self) -> None:
        self._at = 0.0

    def record(self) -> None:
        self._at = time.process_time()

    def elapsed_time(self, end: HostEvent) -> float:
        """Milliseconds until `end`."""
        return (end._at - self._at) * 1e3


@dataclass(frozen=True)
class Clock:
    """event: makes one that times. synchronize: waits until the device is idle."""

    event: Callable[[], Any]
    synchronize: Callable[[], None]


def clock(device: torch.device) -> Clock:
    """That of a device: the processor's, or events of an accelerator's stream."""
    if device.type == "cpu":
        return Clock(HostEvent, lambda: None)
    events = torch.get_device_module(device).Event
    return Clock(lambda: events(enable_timing=True), lambda: torch.accelerator.synchronize(device))


@dataclass(frozen=True)
class Times:
    """Median milliseconds of a step. device: on its stream, waits for the host included. host: until the call
    returned."""

    device: float
    host: float


def race(
    models: Mapping[str, Callable[..., Any]],
    call: Callable[[int], dict[str, Any]],
    rounds: int,
    warmup: int,
    clock: Clock,
) -> dict[str, Times]:
    """All models in turns, a burst of calls each. Within a burst nothing waits for the device, but what the
    model itself waits for, as in a sampling loop.

    call: the arguments of step i.
    """
    spans: dict[str, list[tuple[Any, Any, float]]] = {name: [] for name in models}
    with torch.no_grad():
        for name, steps in turns(list(models), rounds + warmup):
            calls = [call(i) for i in steps]
            clock.synchronize()
            for arguments in calls:
                begin, end = clock.event(), clock.event()
                at = time.perf_counter()
                begin.record()
                models[name](**arguments)
                end.record()
                spans[name].append((begin, end, (time.perf_counter() - at) * 1e3))
            clock.synchronize()
    return {name: _medians(found[warmup:]) for name, found in spans.items()}


def _medians(spans: list[tuple[Any, Any, float]]) -> Times:
    return Times(
        statistics.median(begin.elapsed_time(end) for begin, end, _ in spans),
        statistics.median(host for _, _, host in spans),
    )
