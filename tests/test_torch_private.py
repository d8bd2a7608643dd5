"""Every private name of torch that the library uses is there, in the version that is installed."""

from __future__ import annotations

import ast
import functools
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import Graph

from fxcache import torch_private
from fxcache.torch_private import (
    FakeTensorMode,
    ShapeEnv,
    TorchDispatchMode,
    TracingContext,
    before_compiling,
    composite_kernel,
    count_compiled_frames,
    has_decomposition,
    inductor_mode,
    inductor_options,
    is_marked,
    is_of_torch,
    mark_static,
    maybe_mark_dynamic,
    rename,
    settings,
    storage_id,
    tracing,
)

FILES = [f for f in sorted(Path(torch_private.__file__).parent.glob("*.py")) if f.stem != "__init__"]
# What is read of it there, and in ir/guards.py, ir/fake_values.py and capture/symbolic_reads.py.
OF_SHAPE_ENV = (
    "backed_var_to_val",
    "create_symfloatnode",
    "create_symintnode",
    "create_unspecified_symbol",
    "deferred_runtime_asserts",
    "divisible",
    "evaluate_sym_node",
    "fake_tensor_cache",
    "guards",
    "ignore_fresh_unbacked_symbols",
    "replacements",
    "settings",
    "size_like",
    "suppress_guards",
    "var_to_hint_override",
    "var_to_range",
)
SETTINGS = sorted(n.removeprefix("set_") for n in vars(settings) if n.startswith("set_"))


def imported() -> Iterator[tuple[str, str]]:
    """(module, name) of everything that is imported from torch."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
                yield from ((str(node.module), alias.name) for alias in node.names)


def reached() -> Iterator[str]:
    """The dotted names that are reached from `torch`, `c` being `torch._C`."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                name = ast.unparse(node)
                name = name.replace("c.", "torch._C.", 1) if name.startswith("c.") else name
                if name.startswith("torch.") and "(" not in name and "._" in name:
                    yield name


@pytest.mark.parametrize(("module", "name"), sorted(set(imported())))
def test_what_is_imported_is_there(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", sorted(set(reached())))
def test_what_is_reached_is_there(name: str) -> None:
    importlib.import_module("torch._inductor.config")
    functools.reduce(getattr, name.split(".")[1:], torch)


@pytest.mark.parametrize("name", OF_SHAPE_ENV)
def test_what_is_read_of_an_environment_of_symbols_is_there(name: str) -> None:
    assert hasattr(ShapeEnv(), name)


def test_every_name_is_handed_on() -> None:
    own = {
        node.name
        for file in FILES
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }
    assert len(own) > 20
    assert not [name for name in own if not hasattr(torch_private, name)]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_set_to_what_it_is(name: str) -> None:
    before = getattr(settings, name)()
    getattr(settings, f"set_{name}")(before)
    assert getattr(settings, name)() == before


def test_a_setting_is_changed() -> None:
    before = settings.deterministic()
    try:
        settings.set_deterministic((True, True))
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        settings.set_deterministic(before)


def test_a_node_is_renamed() -> None:
    graph = Graph()
    first, second = graph.placeholder("x"), graph.placeholder("y")
    rename(second, "x")
    assert (first.name, second.name) == ("x", "x_1")


def test_the_memory_of_a_tensor_has_a_number() -> None:
    x = torch.zeros(3)
    assert storage_id(x) == storage_id(x[1:]) != storage_id(x.clone())


def test_marked_sizes_are_known() -> None:
    x, y = torch.zeros(3), torch.zeros(3)
    assert not is_marked(x, dynamic=True) and not is_marked(x, dynamic=False)
    maybe_mark_dynamic(x, 0)
    mark_static(y)
    assert is_marked(x, dynamic=True) and is_marked(y, dynamic=False)


def test_what_was_compiled_is_known() -> None:
    def function() -> None: ...

    assert before_compiling(torch.compile(function)) is function
    assert before_compiling(function) is None


def test_compiled_frames_are_counted_from_here() -> None:
    before = count_compiled_frames(0)
    assert count_compiled_frames(before) in (0, -1)
    assert count_compiled_frames(before) == before


def test_modes_of_torch_are_told_from_others() -> None:
    assert is_of_torch(FakeTensorMode())
    assert not is_of_torch(TorchDispatchMode())
    assert TracingContext.try_get() is None


def test_an_operator_that_is_made_of_others_has_their_kernel() -> None:
    linear = torch.ops.aten.linear.default
    x, w = torch.ones(2, 3), torch.ones(4, 3)
    assert torch.equal(composite_kernel(linear, (x, w), {}), nn.functional.linear(x, w))
    assert not has_decomposition(torch.ops.aten.add.Tensor)


def test_inductor_has_options_and_modes() -> None:
    assert "max_autotune" in inductor_options()
    assert inductor_mode("max-autotune-no-cudagraphs")["max_autotune"] is True


def test_the_log_of_fake_tensors_is_that_of_their_module() -> None:
    assert tracing.FakeTensor.__module__ == tracing.FAKE_TENSOR_LOG
