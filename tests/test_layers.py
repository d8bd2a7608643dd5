"""The order of the layers: every import points down, and no modules import each other in a circle."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import fxcache

ROOT = Path(fxcache.__file__).parent
# Lowest first. What stands in one row does not import each other.
LAYERS = (
    {"errors", "version", "torch_private"},
    {"spelling", "devices"},
    {"forecasters", "plans"},
    {"ops"},
    {"policies"},
    {"notation"},
    {"config"},
    {"environment"},
    {"ir"},
    {"capture"},
    {"passes"},
    {"runtime"},
    {"package"},
    {"backends"},
    {"calibration"},
    {"api"},
    {"__init__"},
    {"embedded"},
    {"benchmark"},
    {"preparation"},
    {"gallery"},
    {"integrations"},
    {"cli"},
)


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, without the leading `fxcache`."""
    found = {}
    for file in (*sorted(ROOT.rglob("*.py")), *sorted((ROOT / "passes").glob("*.py"))):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = file
    return found


MODULES = modules()


@functools.cache
def parsed(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text())


@functools.cache
def within_functions(name: str) -> frozenset[ast.AST]:
    functions = [n for n in ast.walk(parsed(name)) if isinstance(n, ast.FunctionDef)]
    return frozenset(node for function in functions for node in ast.walk(function))


def imports(name: str) -> Iterator[tuple[str, ast.AST]]:
    """The modules of fxcache that a module imports, wherever it does."""
    file = MODULES[name]
    package = ["fxcache", *file.relative_to(ROOT).parent.parts]
    for node in ast.walk(parsed(name)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "fxcache":
                    yield alias.name.partition(".")[2] or "__init__", node
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parts = [*base, *(node.module or "").split(".")] if node.module else base
            if parts[:1] == ["fxcache"]:
                for alias in node.names:
                    inner = ".".join((*parts[1:], alias.name))
                    yield (inner if inner in MODULES else ".".join(parts[1:]) or "__init__"), node


def layer(name: str) -> int:
    return next(i for i, row in enumerate(LAYERS) if name.split(".")[0] in row)


def test_every_module_is_in_a_layer() -> None:
    assert {n.split(".")[0] for n in MODULES} == set().union(*LAYERS)


def test_imports_point_down() -> None:
    def is_up(name: str, imported: str) -> bool:
        same_room = name.split(".")[0] == imported.split(".")[0]
        return not same_room and layer(imported) >= layer(name)

    found = [f"{n} imports {i}" for n in MODULES for i, _ in imports(n) if is_up(n, i)]
    assert not found, "\n".join(found)


def test_no_circle() -> None:
    graph = {name: {i for i, _ in imports(name) if i != name} for name in MODULES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_no_import_within_a_function_hides_one() -> None:
    """But those of commands, which load only what they need."""
    found = [
        f"{name}:{node.lineno} imports {imported}"  # type: ignore[attr-defined]
        for name in MODULES
        for imported, node in imports(name)
        if name.split(".")[0] != "cli" and node in within_functions(name)
    ]
    assert not found, "\n".join(found)


def test_public_names_are_where_they_are_said_to_be() -> None:
    """`fxcache.X` is imported when it is asked for; a type checker is told the same in imports."""
    told = {
        alias.name: f".{node.module}"
        for node in ast.walk(parsed("__init__"))
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module != "version"
        for alias in node.names
    }
    assert told == fxcache.HOMES and set(told) == set(fxcache.__all__) <= set(dir(fxcache))
    assert all(getattr(fxcache, name) is not None for name in told)


def test_modules_are_attributes_and_nothing_else_is() -> None:
    words = "import fxcache; fxcache.errors.ConfigError; fxcache.version; print(hasattr(fxcache, 'nothing'))"
    done = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr


def test_private_names_of_torch_are_in_one_place() -> None:
    found = [
        f"{name}:{line} {names}"
        for name, file in MODULES.items()
        if name.split(".")[0] != "torch_private"
        for line, names in private_names(ast.parse(file.read_text()))
    ]
    assert not found, "\n".join(found)


def test_private_names_are_noticed() -> None:
    source = (
        "import torch._dynamo\nfrom torch.utils import _pytree\nfrom torch._ops import OpOverload\n"
        "torch._C._len()\ntorch.fx._x\ntorch.__version__\ntorch.ops.aten._to_copy\nimport torch.nn\n"
        "from torch.fx.experimental.proxy_tensor import make_fx\n"
    )
    assert sorted({line for line, _ in private_names(ast.parse(source))}) == [1, 2, 3, 4, 5, 9]


def private_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines that import a private part of torch, or reach one from `torch`; operators are public."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Name, ast.Attribute)):
            names = [ast.unparse(node)]
        else:
            continue
        for name in names:
            first, *parts = name.split(".")
            private = [(p.startswith("_") and not p.startswith("__")) or p == "experimental" for p in parts]
            reached = any(private) if not isinstance(node, ast.Attribute) else private and private[-1]
            if first == "torch" and parts[:1] != ["ops"] and reached:
                yield node.lineno, name


# Private attributes that the library reads of what is not its own.
OF_MODULES = {"_buffers", "_modules", "_parameters", "_call_impl", "_compiled_call_impl", "_orig_mod"}
OF_HOOKS = {
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_global_forward_hooks", "_global_forward_pre_hooks"),
}
OF_TENSORS_AND_OPERATORS = {"_version", "_schema"}
OF_DIFFUSERS = {
    *("_AttentionBackendRegistry", "_active_backend", "_diffusers_hook", "_flattened_mesh", "_fn_refs"),
    *("_hook_order",),
    *("_is_cached", "_is_stateful", "_module_ref", "_progress_bar_config"),
}
OF_ENGINES = {"_cache_dit_enabled", "_dit_modules", "_extra_params", "_unmount_cache_dit"}
OF_PYTHON = {"_getframe", "_lru_cache_wrapper", "_value_"}
REPLACED = {"_callback_from_stance"}  # of a module that torch_private hands on to the one file that does it
KNOWN = OF_MODULES | OF_HOOKS | OF_TENSORS_AND_OPERATORS | OF_DIFFUSERS | OF_ENGINES | OF_PYTHON | REPLACED


def test_private_attributes_of_other_objects_are_those_that_are_known() -> None:
    trees = {n: ast.parse(f.read_text()) for n, f in MODULES.items() if n.split(".")[0] != "torch_private"}
    own = {name for tree in trees.values() for name in defined(tree)}
    found = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name, tree in trees.items()
        for node, attribute in private_attributes(tree)
        if attribute not in own | KNOWN and not ast.unparse(node).startswith(("torch.ops.", "aten."))
    ]
    assert not found, "\n".join(found)


def test_private_attributes_are_noticed() -> None:
    tree = ast.parse("node._rename('x')\nhasattr(tensor, '_dynamo_indices')\nself.__class__\nx.open")
    assert {attribute for _, attribute in private_attributes(tree)} == {"_rename", "_dynamo_indices"}


ASKING = ("getattr", "hasattr", "setattr", "delattr")


def private_attributes(tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Attributes that begin with an underscore, also those that `getattr` and its like are asked for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name: object = node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ASKING:
            name = node.args[1].value if isinstance(node.args[1], ast.Constant) else ""
        else:
            continue
        if isinstance(name, str) and name.startswith("_") and not name.startswith("__"):
            yield node, name


def defined(tree: ast.AST) -> Iterator[str]:
    """Names of the functions, classes, fields and attributes of `self` that a module defines."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            if isinstance(node, ast.Name):
                yield node.id
            elif ast.unparse(node.value) == "self":
                yield node.attr
