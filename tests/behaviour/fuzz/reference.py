"""What a hit must be, by hand: every block of the middle is skipped by putting others' values in its place.

A hit runs the forward twice on copies of the plain model. First each middle block hands on its streams as
they are: its skeleton. Then each returns skeleton + residual, the residual being what the last computed step
had over its own skeleton. (Glue between the blocks is linear in all our models, so that it does not matter
that it sees these values.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import GIVEN_BACK, IN_PLACE, PACKS, Streams, unpack
from .models import chain
from .spec import Spec

Handler = Callable[[int, Any, Tensor, Any, dict[str, Any]], Any]
FRONT = 1


class HandReference:
    """The hits of a model whose blocks behind the first are cached, for one trajectory."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._residuals: list[Streams] = []

    def compute(self, model: nn.Module, arguments: dict[str, Any]) -> None:
        """Learn from a step that computes; `model` is the plain model, about to be called."""
        full: list[Streams] = []

        def record(index: int, block: Any, x: Tensor, second: Any, given: dict[str, Any]) -> Any:
            result = block._call_impl(*((x,) if second is None else (x, second)), **given)
            if index >= FRONT:
                full.append(_copied(unpack(result, x, second)))
            return result

        _run(model, arguments, record)
        skeleton = self._skeleton(model, arguments)
        self._residuals = [_minus(a, b) for a, b in zip(full, skeleton, strict=True)]

    def hit(self, model: nn.Module, arguments: dict[str, Any]) -> Any:
        """The output of a step that is a hit."""
        skeleton = self._skeleton(model, arguments)

        def replay(index: int, block: Any, x: Tensor, second: Any, given: dict[str, Any]) -> Any:
            if index < FRONT:
                return block._call_impl(*((x,) if second is None else (x, second)), **given)
            values = _plus(skeleton[index - FRONT], self._residuals[index - FRONT])
            return self._hand_on(x, second, *values)

        return _run(model, arguments, replay)

    def _skeleton(self, model: nn.Module, arguments: dict[str, Any]) -> list[Streams]:
        found: list[Streams] = []

        def identity(index: int, block: Any, x: Tensor, second: Any, given: dict[str, Any]) -> Any:
            if index < FRONT:
                return block._call_impl(*((x,) if second is None else (x, second)), **given)
            found.append(_copied((x, second)))
            return self._hand_on(x, second, x, second)

        _run(model, arguments, identity)
        return found

    def _hand_on(self, x: Tensor, second: Any, new_x: Tensor, new_second: Any) -> Any:
        """What a block does that leaves these values."""
        how = self._spec.in_place
        if how in IN_PLACE or (how == "second_stream" and second is None):
            new_x = x.copy_(new_x)
        elif new_x is x:  # a block returns a tensor of its own, which glue may write to
            new_x = x.clone()
        if second is not None and how in ("mul_", "returns_none", "second_stream"):
            new_second = second.copy_(new_second)
        elif new_second is second and second is not None:
            new_second = second.clone()
        return PACKS[GIVEN_BACK.get(how, self._spec.result)](new_x, new_second)


def _run(model: nn.Module, arguments: dict[str, Any], handler: Handler) -> Any:
    """A call of a copy of `model` on copies of the arguments, its blocks' calls given to `handler`."""
    model, arguments = copy.deepcopy(model), {name: _copy(value) for name, value in arguments.items()}
    number = [0]
    torch.manual_seed(0)  # as before every call

    def called(block: nn.Module) -> Callable[..., Any]:
        def call(x: Tensor, second: Any = None, **given: Any) -> Any:
            index, number[0] = number[0], number[0] + 1
            return handler(index, block, x, second, given)

        return call

    for block in chain(model):
        block._compiled_call_impl = called(block)
    return model(**arguments)


def _copy(value: Any) -> Any:
    return value.clone_state() if isinstance(value, torch.Generator) else copy.deepcopy(value)


def _copied(streams: Streams) -> Streams:
    x, second = streams
    return x.clone(), None if second is None else second.clone()


def _minus(a: Streams, b: Streams) -> Streams:
    return a[0] - b[0], None if a[1] is None or b[1] is None else a[1] - b[1]


def _plus(a: Streams, b: Streams) -> Streams:
    return a[0] + b[0], None if a[1] is None or b[1] is None else a[1] + b[1]
