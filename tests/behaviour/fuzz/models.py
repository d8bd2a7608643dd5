"""Random models: containers, contexts, glue and Python state around the blocks."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from .blocks import WIDTH, block_class, unpack
from .containers import CONTAINERS
from .options import OPTIONS
from .spec import Spec
from .states import READS, STATES, give_state


def build(spec: Spec) -> nn.Module:
    """The model of `spec`: equal on every call, down to its weights."""
    with torch.random.fork_rng():
        torch.manual_seed(spec.seed)
        model = _model_class(spec)()
    freeze(model)
    return model.to(getattr(torch, spec.dtype))


def freeze(model: nn.Module) -> None:
    """For inference; also the blocks that no module table holds."""
    model.eval().requires_grad_(False)
    for block in chain(model):
        block.eval().requires_grad_(False)


def chain(model: nn.Module) -> list[nn.Module]:
    """The blocks in the order of their calls."""
    return model.walk()  # type: ignore[operator, no-any-return]


def _model_class(spec: Spec) -> type[nn.Module]:
    hold, walk = CONTAINERS[spec.container]
    region = CONTEXTS[spec.context]
    glue = GLUES[spec.glue]
    use_option = OPTIONS[spec.option] if spec.option != "none" and spec.option_to == "glue" else None
    remember = STATES[spec.state]
    read = READS.get(spec.outside, lambda model, x: x)
    once = region if spec.placed in ("around", "outer") else contextlib.nullcontext
    every = region if spec.placed == "each_block" else contextlib.nullcontext
    to_blocks = spec.option_to == "blocks"
    skips, joined = spec.streams == "long_skips", spec.streams == "dual_then_single"
    two = spec.streams in ("dual", "dual_then_single")
    half = spec.blocks // 2
    swapped = spec.glue == "storage_swap"

    class Model(nn.Module):
        factor = 1.0

        def __init__(self) -> None:
            super().__init__()
            first = block_class(spec, two)
            later = block_class(spec, False) if joined else first
            blocks = [(later if joined and i >= half else first)() for i in range(spec.blocks)]
            if spec.container == "repeated":
                blocks = blocks[:1]
            hold(self, blocks)
            self.inlet = nn.Linear(WIDTH, WIDTH)
            self.outlet = nn.Linear(WIDTH, WIDTH)
            self.register_buffer("offset", torch.full((WIDTH,), 0.05))
            self.strength = 1.0
            give_state(self)

        def walk(self) -> list[nn.Module]:
            return walk(self, spec.blocks)

        def forward(
            self, x: Tensor, timestep: Tensor, context: Tensor | None = None, options: Any = None
        ) -> Any:
            x = self.inlet(x) if spec.in_place != "callers_tensor" else _written(x)
            x = read(self, x * self.strength + self.offset)
            if use_option is not None:
                x = use_option(options, x)
            x = remember(self, x)
            second = context if two else None
            saved: list[Tensor] = []
            given = {"options": options} if to_blocks else {}
            with once():
                for i, block in enumerate(self.walk()):
                    if joined and i == half:
                        x, second = torch.cat([second, x], 1), None
                    x = glue(self, x, timestep, i)
                    if spec.in_place == "glue":
                        x *= 0.99
                    if spec.in_place == "glue_view":
                        x[:, 0].add_(0.05)
                    if skips and i >= spec.blocks - half:
                        x = x + 0.5 * saved.pop()
                    with every():
                        x, second = _run(block, x, second, given, swapped)
                    if skips and i < half:
                        saved.append(x * 1.5 if spec.seed % 2 else x)
            if joined and second is None:
                x = x[:, context.shape[1] :]
            return self.outlet(x.to(self.outlet.weight.dtype))

    if spec.placed == "decorator":
        Model.forward = _decorated(spec, Model.forward)  # type: ignore[method-assign]
    return Model


def _written(x: Tensor) -> Tensor:
    x += 0.125
    return x


def _run(block: nn.Module, x: Tensor, second: Any, given: dict[str, Any], swapped: bool) -> Any:
    if not swapped:
        return unpack(block(x, second, **given) if second is not None else block(x, **given), x, second)
    weight = block.mix.weight
    home = weight.data
    weight.data = home.clone()
    result = unpack(block(x, second, **given) if second is not None else block(x, **given), x, second)
    weight.data = torch.zeros_like(home)
    weight.data = home
    return result


# ---------------------------------------------------------------------- contexts


@contextlib.contextmanager
def _default_dtype() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


CONTEXTS: dict[str, Callable[[], Any]] = {
    "none": contextlib.nullcontext,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast_off": lambda: torch.autocast("cpu", enabled=False),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default_dtype": _default_dtype,
    "sdpa_kernel": lambda: sdpa_kernel(SDPBackend.MATH),
}


def _decorated(spec: Spec, forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` within the region, as a decorator."""
    region = CONTEXTS[spec.context]

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        with region():
            return forward(*args, **kwargs)

    return run


# ---------------------------------------------------------------------- glue before each block


def _adds(model: Any, x: Tensor, timestep: Any, index: int) -> Tensor:
    time = timestep.reshape(-1, 1, 1).to(x.dtype) if isinstance(timestep, Tensor) else timestep
    return x + 1e-4 * index * time  # type: ignore[no-any-return]


def _pad(model: Any, x: Tensor, timestep: Tensor, index: int) -> Tensor:
    tokens = x.shape[1]
    padded = F.pad(x, (0, 0, 0, -tokens % 4))
    return padded[:, :tokens] * 1.01 + padded.mean(1, keepdim=True)


def _interpolate(model: Any, x: Tensor, timestep: Tensor, index: int) -> Tensor:
    tall = F.interpolate(x.transpose(1, 2), size=2 * x.shape[1], mode="linear")
    return x + 0.1 * F.interpolate(tall, size=x.shape[1]).transpose(1, 2)


GLUES: dict[str, Callable[[Any, Tensor, Tensor, int], Tensor]] = {
    "none": lambda model, x, timestep, index: x,
    "storage_swap": lambda model, x, timestep, index: x,
    "adds": _adds,
    "roll": lambda model, x, timestep, index: x.roll(1, 1),
    "split": lambda model, x, timestep, index: torch.cat(x.split(2, 1)[::-1], 1),
    "branch_on_sample": lambda model, x, timestep, index: x * 1.1 if index == 0 and x.mean() > 0 else x,
    "count": lambda model, x, timestep, index: x + 1e-3 * int((x > 0).sum()) if index == 0 else x,
    "pad": _pad,
    "interpolate": _interpolate,
    "item": lambda model, x, timestep, index: x * 1.1 if timestep[0].item() > 500 else x,
    "branch_on_number": lambda model, x, timestep, index: x + 0.01 if x.shape[1] > 5 else x - 0.01,
}
