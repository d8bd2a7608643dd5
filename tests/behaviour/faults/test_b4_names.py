"""B4: a model's own names, whatever they are, do not meet those that fxcache gives."""

from __future__ import annotations

import builtins
import keyword
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxcache
from fxcache.ir.state import record_of
from tests.sweep import sweep

from .base import EAGER, WIDTH, Base, Block, build, equal_uncached, sample

OWN = (
    *(f"{n}_0" for n in ("previous", "clock", "log", "knobs", "hit", "record", "now", "residual", "done")),
    *("near_0", "sample_0", "near", "sample", "plan_0", "fits_0", "row_0", "follows_0"),
    *("output_0", "output", "x_history", "blocks_1_history", "blocks_3", "front", "skip", "compute"),
    *("back", "front_0", "skip_0", "compute_0", "hit", "miss", "step", "values", "args", "kwargs"),
    *("torch", "device", "inf", "nan", "pytree", "getitem", "sub", "own", "add", "cond", "input0"),
    *("größe", "_", "__", "_x", "x_", "x_1", "graph", "forward", "self", "type", "list", "_object_0"),
    *("aValue", "HTTPBlocks", "X", "Blocks2D"),
)
MODULES = (
    *(n.removesuffix("_0") for n in OWN if n not in ("forward", "self", "type", "_", "__")),
    *("code", "meta", "recompile", "print_readable", "delete_submodule", "class_name", "match", "print"),
    *("_graph", "_code", "_tracer_cls", "lambda", "0", "a-b", "a b", "wrapped_call", "_wrapped_call"),
)
FEW_INPUTS = ("previous_0", "knobs_0", "follows_0", "x_history", "kwargs", "self")
FEW_MODULES = ("previous", "graph", "_code", "lambda", "a b")
POLICIES = (EAGER, "F1B1_W0M0MC0_T1O1_R1000")


def with_input(name: str) -> type[Base]:
    """A model whose forward takes `name`, which every stage uses."""
    receiver = "this" if name == "self" else "self"
    source = (
        f"def forward({receiver}, x, timestep, {name}):\n"
        f"    for block in {receiver}.blocks:\n"
        f"        x = block(x) + {name}\n"
        f"    return x * {name}\n"
    )
    made: dict[str, Any] = {}
    exec(source, made)
    return type("Named", (Base,), {"forward": made["forward"]})


def with_module(name: str) -> type[Base]:
    """A model whose blocks, last layer and table are called `name` or are inside a module of that name."""

    class Named(Base):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            holder = nn.ModuleList(Block() for _ in range(4))
            self._modules[name] = holder
            holder.register_buffer("table", torch.linspace(0.5, 1.5, WIDTH))

        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            holder = self._modules[name]
            assert holder is not None
            for block in holder:  # type: ignore[attr-defined]
                x = block(x) * holder.table
            return x

    return Named


def cached_equals_first_step(model: nn.Module, calls: list[tuple[Any, ...]]) -> None:
    """A first step is computed, the others are hits and finite."""
    for policy in POLICIES:
        cached = fxcache.transform(model, policy)
        with torch.no_grad():
            assert torch.equal(cached(*calls[0]), model(*calls[0]))
            assert all(cached(*call).isfinite().all() for call in calls[1:])
        assert cached.stats()["default"].cached_steps == (1, 2, 3)


def masked(model: nn.Module, calls: list[tuple[Any, ...]]) -> None:
    """With a steps mask, or a plan, there are more state tensors."""
    for config in (fxcache.CacheConfig(fn_compute_blocks=1, steps_mask=(1, 0, 1, 0)), "P4K2"):
        cached = fxcache.transform(model, config)
        with torch.no_grad():
            assert torch.equal(cached(*calls[0]), model(*calls[0]))


@pytest.mark.parametrize("name", sweep(OWN, FEW_INPUTS))
def test_b4_input_of_any_name(name: str) -> None:
    assert name.isidentifier()
    model = build(with_input(name))
    calls = [(*call, torch.full((1, 1, 1), 0.5)) for call in sample()]
    cached = equal_uncached(model, calls)
    specialization = cached.specialization_for(
        {"x": calls[0][0], "timestep": calls[0][1], name: calls[0][2]}
    )[0]
    assert specialization.program.capture.inputs == ("x", "timestep", name)  # the user's own
    cached_equals_first_step(model, calls)
    masked(model, calls)


@pytest.mark.parametrize("name", sweep(dict.fromkeys(MODULES), FEW_MODULES))
def test_b4_submodule_of_any_name(name: str) -> None:
    model, calls = build(with_module(name)), sample()
    equal_uncached(model, calls)
    cached_equals_first_step(model, calls)


@pytest.mark.parametrize("name", ["graph", "lambda", "clock", "code"])
def test_b4_tensor_of_a_renamed_module_is_replaced(name: str) -> None:
    model, calls = build(with_module(name)), sample()
    cached = equal_uncached(model, calls)
    model._modules[name].table = torch.linspace(2.0, 1.0, WIDTH)
    with torch.no_grad():
        assert torch.equal(cached(*calls[0]), model(*calls[0]))
    model._modules[name][1] = build(Block, seed=7)
    with torch.no_grad():
        assert torch.equal(cached(*calls[0]), model(*calls[0]))


KEYS = [
    *keyword.kwlist,
    *sorted(n for n in dir(builtins) if n.islower())[:40],
    "",
    "²",
    "a.b",
    "1",
    "clock_0",
]


def test_b4_dict_argument_with_any_keys() -> None:
    class Dict(Base):
        def forward(self, x: Tensor, timestep: Tensor, more: dict[str, Tensor]) -> Tensor:
            for block in self.blocks:
                x = block(x) + sum(more.values())
            return x * more["lambda"]

    more = {key: torch.full((1, 1, 1), 0.01 * i) for i, key in enumerate(KEYS)}
    model, calls = build(Dict), [(*call, more) for call in sample()]
    equal_uncached(model, calls)
    cached_equals_first_step(model, calls)


@pytest.mark.parametrize("name", ["log", "clock"])
def test_b4_lists_named_like_the_record_are_freed(name: str) -> None:
    """What is kept of a trajectory that is over is its record, not the histories of blocks named alike."""
    model = build(with_module(f"{name}_blocks"))
    cached = fxcache.transform(model, "F1B1_W0M0MC0_T1O1_R1000")
    with torch.no_grad():
        for call in sample():
            cached(*call)
    specialization = cached.specialization_for({"x": sample()[0][0], "timestep": sample()[0][1]})[0]
    names = {s.name: torch.zeros(()) for s in specialization.program.state}
    assert set(record_of(names)) == {"clock_0", "log_0"}


class Everything(Base):
    """Inputs and modules of the reserved names at once."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.clock = nn.ModuleList(Block() for _ in range(3))
        self.skip, self.graph = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, previous_0: Tensor, timestep: Tensor, now_0: Tensor, output_0: Tensor) -> Tensor:
        x = self.skip(previous_0)
        for block in self.clock:
            x = block(x) + now_0
        return self.graph(x) * output_0


EXTRA = (torch.full((1, 1, 1), 0.5), torch.full((1, 1, 1), 2.0))


def test_b4_compiled() -> None:
    model, calls = build(Everything), [(*call, *EXTRA) for call in sample()]
    plain = fxcache.transform(model, EAGER)
    compiled = fxcache.compile(fxcache.transform(model, EAGER))
    with torch.no_grad():
        for call in calls:
            torch.testing.assert_close(compiled(*call), plain(*call))


@pytest.mark.full
def test_b4_exported(tmp_path: Path) -> None:
    model, calls = build(Everything), [(*call, *EXTRA) for call in sample()]
    plain = fxcache.transform(model, EAGER)
    names = ("previous_0", "timestep", "now_0", "output_0")
    package = fxcache.export(plain, tmp_path / "model.pt2", dict(zip(names, calls[0], strict=True)))
    loaded = fxcache.load(package)
    with torch.no_grad():
        for call in calls:
            torch.testing.assert_close(loaded(*call), plain(*call))
