"""The blocks of a random model: what they compute, where they write it and how they return it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .options import OPTIONS
from .spec import Spec

WIDTH = 8
Streams = tuple[Tensor, Tensor | None]


@dataclass
class Result:
    """What a block returns that has names for it. No pytree node: an object like any other."""

    x: Tensor
    second: Tensor | None


class Pair(NamedTuple):
    """The same with places and names."""

    x: Tensor
    second: Tensor | None


def block_class(spec: Spec, two_streams: bool) -> type[nn.Module]:
    """A new class of blocks, `forward(x, second=None, options=None)`."""
    write, pack = WRITES[spec.in_place], PACKS[GIVEN_BACK.get(spec.in_place, spec.result)]
    inner = _attention if spec.context == "sdpa_kernel" else _mixing
    counted = spec.state == "block_counter"
    apply = OPTIONS[spec.option] if spec.option_to == "blocks" else None
    with_table = spec.context == "default_dtype"

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(WIDTH, WIDTH)
            self.other = nn.Linear(WIDTH, WIDTH) if two_streams else None
            self.count = 0

        def forward(self, x: Tensor, second: Tensor | None = None, options: Any = None) -> Any:
            update = inner(self.mix, x)
            if with_table:
                update = update + torch.linspace(0.0, 1.0, WIDTH).to(update.dtype)
            if apply is not None:
                update = apply(options, update)
            if counted:
                self.count += 1
                update = update + 0.01 * self.count
            other = None
            if self.other is not None:
                update = update + self.other(second).mean(1, keepdim=True)
                other = 0.3 * torch.sin(self.other(second) + x.mean(1, keepdim=True))
            return pack(*write(x, second, update, other))

    return Block


def _mixing(mix: nn.Module, x: Tensor) -> Tensor:
    return 0.3 * torch.tanh(mix(x))  # type: ignore[no-any-return]


def _attention(mix: nn.Module, x: Tensor) -> Tensor:
    heads = mix(x).unflatten(-1, (2, -1)).transpose(1, 2)
    attended = F.scaled_dot_product_attention(heads, heads, heads)
    return 0.3 * attended.transpose(1, 2).flatten(2)


# ---------------------------------------------------------------------- where it is written


def _out_of_place(x: Tensor, second: Any, update: Tensor, other: Any) -> Streams:
    return x + update, None if other is None else second + other


def _iadd(x: Tensor, second: Any, update: Tensor, other: Any) -> Streams:
    x += update
    return x, None if other is None else second + other


def _mul(x: Tensor, second: Any, update: Tensor, other: Any) -> Streams:
    return x.mul_(0.9).add_(update), None if other is None else second.add_(other)


def _add(x: Tensor, second: Any, update: Tensor, other: Any) -> Streams:
    return x.add_(update), None if other is None else second.add_(other)


def _slice(x: Tensor, second: Any, update: Tensor, other: Any) -> Streams:
    x[:, 1:] = x[:, 1:] + update[:, 1:]
    return x, None if other is None else second + other


def _view(x: Tensor, second: Any, update: Tensor, other: Any) -> Streams:
    x.transpose(1, 2).add_(update.transpose(1, 2))
    return x, None if other is None else second + other


def _out(x: Tensor, second: Any, update: Tensor, other: Any) -> Streams:
    return torch.add(x, update.to(x.dtype), out=x), None if other is None else second + other


def _index_put(x: Tensor, second: Any, update: Tensor, other: Any) -> Streams:
    x[:, [0, 2]] = x[:, [0, 2]] + update[:, [0, 2]].to(x.dtype)
    return x, None if other is None else second + other


def _foreach(x: Tensor, second: Any, update: Tensor, other: Any) -> Streams:
    torch._foreach_add_([x], [update.to(x.dtype)])
    return x, None if other is None else second + other


def _second(x: Tensor, second: Any, update: Tensor, other: Any) -> Streams:
    if other is None:  # a block of one stream, behind those of two
        return x.add_(update), None
    second.copy_(second + other)
    return x + update, second


WRITES: dict[str, Callable[..., Streams]] = {
    "none": _out_of_place,
    "glue": _out_of_place,
    "callers_tensor": _out_of_place,
    "glue_view": _out_of_place,
    "view": _view,
    "out": _out,
    "index_put": _index_put,
    "foreach": _foreach,
    "iadd": _iadd,
    "mul_": _mul,
    "slice": _slice,
    "second_stream": _second,
    "returns_none": _add,
}  # fmt: skip
IN_PLACE = (
    "iadd",
    "mul_",
    "slice",
    "returns_none",
    "view",
    "out",
    "index_put",
    "foreach",
)  # what writes to `x`
GIVEN_BACK = {"returns_none": "nothing", "second_stream": "first"}  # where it is not the spec's `result`


# ---------------------------------------------------------------------- how it is given back


def _nested(x: Tensor, second: Tensor | None) -> Any:
    return x, (second, x.mean(), x.amax(1))


PACKS: dict[str, Callable[[Tensor, Tensor | None], Any]] = {
    "tensor": lambda x, second: x if second is None else (x, second),
    "tuple": lambda x, second: (x,) if second is None else (x, second),
    "nested_tuple": _nested,
    "dict": lambda x, second: {"x": x, "second": second},
    "dataclass": Result,
    "list": lambda x, second: [x] if second is None else [x, second],
    "named_tuple": Pair,
    "first": lambda x, second: x,
    "nothing": lambda x, second: None,
}


def unpack(result: Any, x: Tensor, second: Tensor | None) -> Streams:
    """The streams behind a block, which was given `x` and `second`."""
    if result is None:
        return x, second
    if isinstance(result, Tensor):
        return result, second
    if isinstance(result, dict):
        return result["x"], result["second"] if result["second"] is not None else second
    if isinstance(result, Result):
        return result.x, result.second if result.second is not None else second
    rest = result[1] if len(result) > 1 else None
    if isinstance(rest, tuple):
        rest = rest[0]
    return result[0], rest if rest is not None else second
