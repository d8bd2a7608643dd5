"""Python state that a forward reads and writes, and changes from outside between calls."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import WIDTH


def _table(tokens: int) -> Tensor:
    return torch.linspace(0.0, 0.5, tokens)[:, None] * torch.ones(WIDTH)


@functools.lru_cache(maxsize=8)
def _cached_table(tokens: int) -> Tensor:
    return _table(tokens)


SETTINGS = {"scale": 1.0, "count": 0}
"""What a module of the program holds, for all models."""


class Helper:
    """An object with a memoizing method of its own."""

    def __init__(self) -> None:
        self.table = functools.lru_cache(maxsize=8)(_table)
        self.scale = 1.0
        self.count = 0


def give_state(model: Any) -> None:
    """What `STATES` use: empty at first."""
    model.memo = None
    model.memos = {}
    model.count = 0
    model.log = []
    model.helper = Helper()
    model.last = None
    model.settings = {"inner": {"scale": 1.0}}
    model.frequencies = torch.linspace(0.0, 0.1, WIDTH)
    SETTINGS.update(scale=1.0, count=0)


def _memo_attribute(model: Any, x: Tensor) -> Tensor:
    if model.memo is None or model.memo.shape[0] != x.shape[1]:
        model.memo = _table(x.shape[1])
    return x + model.memo.to(x.dtype)  # type: ignore[no-any-return]


def _memo_dict(model: Any, x: Tensor) -> Tensor:
    if x.shape[1] not in model.memos:
        model.memos[x.shape[1]] = _table(x.shape[1])
    return x + model.memos[x.shape[1]].to(x.dtype)  # type: ignore[no-any-return]


def _counter(model: Any, x: Tensor) -> Tensor:
    model.count += 1
    return x + 0.01 * model.count


def _unread_counter(model: Any, x: Tensor) -> Tensor:
    model.count += 1
    return x


def _log(model: Any, x: Tensor) -> Tensor:
    model.log.append(tuple(x.shape))
    return x


def _last_input(model: Any, x: Tensor) -> Tensor:
    before, model.last = model.last, x.detach().clone()
    return x if before is None or before.shape != x.shape else x + 0.1 * before


def _helper_counter(model: Any, x: Tensor) -> Tensor:
    model.helper.count += 1
    return x + 0.01 * model.helper.count


def _global_counter(model: Any, x: Tensor) -> Tensor:
    SETTINGS["count"] += 1
    return x


STATES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "none": lambda model, x: x,
    "block_counter": lambda model, x: x,
    "memo_attribute": _memo_attribute,
    "memo_dict": _memo_dict,
    "lru_cache": lambda model, x: x + _cached_table(x.shape[1]).to(x.dtype),
    "lru_method": lambda model, x: x + model.helper.table(x.shape[1]).to(x.dtype),
    "counter": _counter,
    "unread_counter": _unread_counter,
    "log": _log,
    "last_input": _last_input,
    "random": lambda model, x: x + 0.01 * torch.randn_like(x),
    "helper_counter": _helper_counter,
    "global_counter": _global_counter,
}


# ---------------------------------------------------------------------- changes from outside


READS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "helper_attribute": lambda model, x: x * model.helper.scale,
    "config_entry": lambda model, x: x * model.settings["inner"]["scale"],
    "class_attribute": lambda model, x: x * model.factor,
    "global": lambda model, x: x * SETTINGS["scale"],
    "tensor_attribute": lambda model, x: x + model.frequencies.to(x.dtype),
    "tensor_attribute_written": lambda model, x: x + model.frequencies.to(x.dtype),
}
"""What the forward reads of that which changes, where it is not read anyway."""


def _steer(module: nn.Module, args: Any, result: Any) -> Any:
    if isinstance(result, Tensor):
        return result + 0.25
    return None


def _look(module: nn.Module, args: Any, result: Any) -> None:
    module.looked = getattr(module, "looked", 0) + 1


def _halved(self: Any, x: Tensor) -> Tensor:
    return 0.5 * nn.functional.linear(x, self.weight, self.bias)


def _patch_class(model: Any, number: int) -> None:
    kind, factor = type(model), 1.0 + 0.5 * number
    before = kind.forward

    @functools.wraps(before)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return before(self, *args, **kwargs) * factor

    kind.forward = forward


def _hook_removed(model: Any, number: int) -> None:
    if number == 1:
        model.outlet.register_forward_hook(_steer)
    else:
        model.outlet._forward_hooks.clear()


def _replace_parameter(model: Any, number: int) -> None:
    mix = model.walk()[-1].mix
    mix.weight = nn.Parameter(mix.weight * 1.5, requires_grad=False)


def _swap_weights(model: Any, number: int) -> None:
    first, last = model.walk()[0], model.walk()[-1]
    first.mix, last.mix = last.mix, first.mix


def _replace_block(model: Any, number: int) -> None:
    old = model.walk()[1]
    old.mix = nn.Linear(WIDTH, WIDTH).requires_grad_(False).to(old.mix.weight.dtype)
    nn.init.constant_(old.mix.weight, 0.1 * number)
    nn.init.zeros_(old.mix.bias)


CHANGES: dict[str, Callable[[Any, int], None]] = {
    "attribute": lambda model, number: setattr(model, "strength", 1.0 + 0.5 * number),
    "buffer_replaced": lambda model, number: setattr(
        model, "offset", torch.full_like(model.offset, 0.2 * number)
    ),
    "buffer_written": lambda model, number: model.offset.add_(0.1),
    "weights_written": lambda model, number: model.walk()[-1].mix.weight.mul_(1.5),
    "hook": lambda model, number: model.walk()[-1].register_forward_hook(_steer if number % 2 else _look),
    "inner_hook": lambda model, number: model.inlet.register_forward_hook(_steer),
    "hook_removed": _hook_removed,
    "forward_patched": lambda model, number: setattr(
        model.outlet, "forward", types.MethodType(_halved, model.outlet)
    ),
    "class_patched": _patch_class,
    "block_replaced": _replace_block,
    "helper_attribute": lambda model, number: setattr(model.helper, "scale", 1.0 + 0.5 * number),
    "config_entry": lambda model, number: model.settings["inner"].update(scale=1.0 + 0.5 * number),
    "class_attribute": lambda model, number: setattr(type(model), "factor", 1.0 + 0.5 * number),
    "global": lambda model, number: SETTINGS.update(scale=1.0 + 0.5 * number),
    "parameter_replaced": _replace_parameter,
    "weights_swapped": _swap_weights,
    "tensor_attribute": lambda model, number: setattr(model, "frequencies", torch.ones(WIDTH) * number),
    "tensor_attribute_written": lambda model, number: model.frequencies.add_(0.1),
    "training": lambda model, number: model.train(bool(number % 2)),
}
"""What somebody does to the model between calls; `number` counts from 1."""
