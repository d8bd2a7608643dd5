"""What the inputs of a captured call are for: the sample, the time, and what conditions it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from .captured import Capture
from .dataflow import same_sizes


@dataclass(frozen=True)
class Roles:
    """The flat inputs of a captured call, by what they are for.

    sample: the input that is denoised: the first that has the shape of the model's first output, else
        the first tensor. time: the input that the clock reads. conditioning: all others, without those
        that have a time's name, numbers, and those with the shape of a further output (a second sample).
    """

    sample: int | None
    time: int | None
    conditioning: tuple[int, ...]

    @staticmethod
    def of(capture: Capture, timestep: str | None) -> Roles:
        """The roles of the inputs of `capture`; `timestep` names the one that holds the time."""
        names = capture.inputs
        time = names.index(timestep) if timestep in names else None
        others = {time, *capture.numbers}
        rest = [i for i, name in enumerate(names) if i not in others and not _names_a_time(name)]
        placeholders = capture.graph.graph.find_nodes(op="placeholder")
        inputs = [p.meta.get("val") for p in placeholders]
        samples: list[int] = []
        for output in _outputs(capture):
            fits = (i for i in rest if i not in samples and _fits(inputs[i], output))
            samples.extend([i for i in fits][:1])
        if not samples:
            samples = rest[:1]
        conditioning = tuple(i for i in rest if i not in samples)
        return Roles(samples[0] if samples else None, time, conditioning)


def _names_a_time(name: str) -> bool:
    return name == "t" or "time" in name or "sigma" in name


def _outputs(capture: Capture) -> list[torch.Tensor]:
    given: Any = capture.graph.graph.output_node().args[0]
    values = (n.meta.get("val") for n in given[: capture.output.count] if isinstance(n, Node))
    return [v for v in values if isinstance(v, torch.Tensor)]


def _fits(value: object, output: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and same_sizes(value, output)
