"""The calls of a spec: inputs that drift within a trajectory, and what happens between them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .blocks import WIDTH
from .options import values
from .spec import Spec
from .states import CHANGES

TOKENS, CONTEXT_TOKENS = 5, 3


@dataclass(frozen=True)
class Step:
    """One call: `change` is to be made to the model before it."""

    trajectory: str
    sizes: tuple[int, int]
    change: Callable[[Any], None] | None
    arguments: dict[str, Any]
    positional: bool

    def given(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as they are passed."""
        return (tuple(self.arguments.values()), {}) if self.positional else ((), self.arguments)


def steps(spec: Spec) -> Iterator[Step]:
    """Fresh on every call, with equal values."""
    options, dtype = values(spec), getattr(torch, spec.dtype)
    contexts: dict[tuple[str, int], Tensor] = {}
    seen: dict[str, int] = {}
    changes = 0
    for number, name in enumerate(spec.calls):
        index = seen[name] = seen.get(name, -1) + 1
        batch, tokens = _sizes(spec, number)
        change = None
        if number in spec.change_at and spec.outside != "none":
            changes += 1
            change = _change(spec, changes)
        fresh = _randn((batch, CONTEXT_TOKENS, WIDTH), 50 + int(name)).to(dtype)
        context = contexts.setdefault((name, batch), fresh)
        drift = _randn((batch, tokens, WIDTH), 10 + int(name))
        sample = _randn((batch, tokens, WIDTH), 20 + int(name)) + 0.02 * index * drift
        time = _time(spec.time, batch, 1000.0 * (1 - index / len(spec.calls)))
        arguments = {"x": sample.to(dtype), "timestep": time, "context": context}
        option = next(options)
        if spec.option != "none":
            arguments["options"] = option
        yield Step(name, (batch, tokens), change, arguments, spec.passing == "positional")


def _time(how: str, batch: int, value: float) -> Any:
    if how == "number":
        return value
    return torch.tensor(value) if how == "zero_dim" else torch.full((batch,), value)


def _change(spec: Spec, number: int) -> Callable[[Any], None]:
    return lambda model: CHANGES[spec.outside](model, number)


def _sizes(spec: Spec, number: int) -> tuple[int, int]:
    grown = number // 2
    return (1 + grown if spec.sizes == "batch" else 1), (TOKENS + grown if spec.sizes == "tokens" else TOKENS)


def _randn(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def around(spec: Spec) -> Iterator[None]:
    """What the caller has in force around every call."""
    regions: list[Any] = [torch.enable_grad() if spec.caller == "grad" else torch.no_grad()]
    if spec.caller == "inference_mode":
        regions.append(torch.inference_mode())
    if spec.caller == "autocast" or spec.context == "autocast_off":
        regions.append(torch.autocast("cpu", torch.bfloat16))
    with contextlib.ExitStack() as stack:
        for region in regions:
            stack.enter_context(region)
        yield
