"""Block caching written a second time, at run time: replaced forwards on a model, no graph.

On a hit every middle block hands on its streams as they are, and what the last computed steps say about
the cut (values behind the last middle block) is added there. Which argument an output continues is
learnt by watching one call: the output tensor of a block *is* an argument of the next of its class, or,
where glue changes it on the way, it is shaped like one.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Path = str
Streams = Mapping[Path, Path]  # place of an output in a block's result → place of the argument


class NotExpressibleError(Exception):
    """Replaced forwards cannot say what a hit of this model is; the message says why."""


@dataclass
class _Call:
    """One call of a block of the chain, as it was when everything was computed."""

    kind: type
    arguments: dict[Path, Tensor]
    outputs: dict[Path, Tensor]
    result: Any

    def is_like(self, other: _Call) -> bool:
        return self.kind is other.kind and self.outputs.keys() == other.outputs.keys()


@dataclass
class Ladder:
    """What a value was at the last computed steps: reuse (order 0) or a first difference (order 1)."""

    order: int
    at: int = -1
    value: Tensor | None = None
    slope: Tensor | None = None

    def learn(self, value: Tensor, step: int) -> None:
        if self.value is not None and self.order == 1:
            self.slope = (value - self.value) / (step - self.at)
        self.value, self.at = value, step

    def predict(self, step: int) -> Tensor:
        assert self.value is not None
        return self.value if self.slope is None else self.value + self.slope * (step - self.at)


@dataclass
class CachedReference:
    """A model whose chain of blocks is cached.

    chain: names of the blocks in the order of their calls, repeats included.
    """

    model: nn.Module
    chain: Sequence[str]
    fn: int
    bn: int
    order: int = 0
    _calls: list[_Call] = field(default_factory=list)
    _ladders: dict[Path, Ladder] = field(default_factory=dict)
    _handler: Callable[..., Any] | None = None
    _count: int = 0
    _step: int = 0

    def __post_init__(self) -> None:
        for name in dict.fromkeys(self.chain):
            module = self.model.get_submodule(name)
            module.forward = self._replaced(name, module.forward)  # type: ignore[method-assign]

    def __call__(self, inputs: Mapping[str, Any], hit: bool) -> Any:
        """One step of a trajectory; the first may not be a hit."""
        with torch.no_grad():
            result = self._replay(inputs) if hit else self._compute(inputs)
        self._step += 1
        return result

    @property
    def _last(self) -> int:
        return len(self.chain) - self.bn - 1

    def _compute(self, inputs: Mapping[str, Any]) -> Any:
        self._calls = []
        result = self._run(inputs, self._record)
        if len(self._calls) != len(self.chain):
            raise NotExpressibleError(f"{len(self._calls)} block calls, not {len(self.chain)}")
        cut = dict(self._calls[self._last].outputs)
        skeleton: dict[Path, Tensor] = {}

        def note(index: int, call: Callable[[], Any], arguments: dict[Path, Tensor]) -> Any:
            if not self._in_middle(index):
                return call()
            handed = self._handed_on(index, arguments)
            if index == self._last:
                skeleton.update(handed)
            return self._like(index, handed)

        self._run(inputs, note)
        for path, value in cut.items():
            ladder = self._ladders.setdefault(path, Ladder(self.order))
            ladder.learn(value - skeleton[path] if path in skeleton else value, self._step)
        return result

    def _replay(self, inputs: Mapping[str, Any]) -> Any:
        def replay(index: int, call: Callable[[], Any], arguments: dict[Path, Tensor]) -> Any:
            if not self._in_middle(index):
                return call()
            handed = self._handed_on(index, arguments)
            if index == self._last:
                for path, ladder in self._ladders.items():
                    forecast = ladder.predict(self._step)
                    handed[path] = handed[path] + forecast if path in handed else forecast
            return self._like(index, handed)

        return self._run(inputs, replay)

    def _in_middle(self, index: int) -> bool:
        return self.fn <= index <= self._last

    def _run(self, inputs: Mapping[str, Any], handler: Callable[..., Any]) -> Any:
        self._handler, self._count = handler, 0
        try:
            return self.model(**inputs)
        finally:
            self._handler = None

    def _replaced(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(forward)

        def replacement(*args: Any, **kwargs: Any) -> Any:
            if self._handler is None:
                return forward(*args, **kwargs)
            index, self._count = self._count, self._count + 1
            if index >= len(self.chain) or self.chain[index] != name:
                raise NotExpressibleError(f"call {index} is of '{name}'")
            arguments = _tensors(dict(signature.bind(*args, **kwargs).arguments))
            return self._handler(index, lambda: forward(*args, **kwargs), arguments)

        return replacement

    def _record(self, index: int, call: Callable[[], Any], arguments: dict[Path, Tensor]) -> Any:
        result = call()
        kind = type(self.model.get_submodule(self.chain[index]))
        self._calls.append(_Call(kind, arguments, _tensors(result), result))
        return result

    def _handed_on(self, index: int, arguments: dict[Path, Tensor]) -> dict[Path, Tensor]:
        """Outputs of a block that is skipped: its streams, as they came in."""
        call = self._calls[index]
        found: dict[Path, Tensor] = {}
        for out, path in self._streams_of(call).items():
            value = arguments.get(path)
            if out in call.outputs and value is not None and value.shape == call.outputs[out].shape:
                found[out] = value
        return found

    def _streams_of(self, like: _Call) -> Streams:
        """What the calls of one class, with results of one structure, hand on."""
        votes: Counter[tuple[Path, Path]] = Counter()
        for call, following in zip(self._calls, self._calls[1:], strict=False):
            if call.is_like(like) and following.is_like(like):
                votes.update(
                    (out, path)
                    for out, value in call.outputs.items()
                    for path, argument in following.arguments.items()
                    if argument is value
                )
        streams = {out: path for (out, path), _ in reversed(votes.most_common())}
        return {**_like_shaped(like, streams), **streams}

    def _like(self, index: int, values: dict[Path, Tensor]) -> Any:
        """A block's result with these tensors in it; a tensor that no stream holds is None."""
        return pytree.tree_map_with_path(
            lambda path, leaf: values.get(pytree.keystr(path)) if isinstance(leaf, Tensor) else leaf,
            self._calls[index].result,
        )


def _like_shaped(call: _Call, known: Streams) -> Streams:
    """For outputs that glue changes before the next block: the first other argument of their shape."""
    free = [path for path in call.arguments if path not in known.values()]
    found: dict[Path, Path] = {}
    for out, value in call.outputs.items():
        match = next((p for p in free if call.arguments[p].shape == value.shape), None)
        if out not in known and match is not None:
            found[out] = match
            free.remove(match)
    return found


def _tensors(tree: Any) -> dict[Path, Tensor]:
    leaves = pytree.tree_flatten_with_path(tree)[0]
    return {pytree.keystr(path): leaf for path, leaf in leaves if isinstance(leaf, Tensor)}
