"""A cached graph as statements: the stages put in their places, one scope for all of their values.

What `print(cached.graph)` shows, before it is shortened (`fold_statements`) and set in lines (`printer`).
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch import nn
from torch.fx import GraphModule, Node

from ..ops.cond import conditional, materialize, store
from .program import Program
from .stage import Stage

INFIX = {"add": "+", "sub": "-", "mul": "*"}
WIDTH = {torch.float64: "f64", torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16",
         torch.int64: "i64", torch.int32: "i32", torch.bool: "b8", torch.complex64: "c64"}  # fmt: skip


@dataclass(frozen=True)
class Ref:
    """A value by its name; `state` for one that is remembered between steps."""

    name: str
    state: bool = False


@dataclass(frozen=True)
class Call:
    """A call. block: whether of a block of the chain. feeds: of several blocks in turn, which result of one
    is which argument of the next."""

    target: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    block: bool = False
    feeds: tuple[int | None, ...] = ()


class Values(tuple[Any, ...]):
    """Several values for several names, written without parentheses."""


@dataclass(frozen=True)
class Statement:
    """`names = value`; without names, a call for its effect. shapes: of the names, as text."""

    names: tuple[Ref | None, ...]
    value: Any
    shapes: tuple[str, ...] = ()


@dataclass
class Branch:
    """`if hit: skip else: compute`, each a list of statements."""

    hit: Ref
    skip: list[Any]
    compute: list[Any]


Body = list[Any]  # of `Statement` and `Branch`


def statements(program: Program) -> Body:
    """The statements of a step, in the order in which it makes them."""
    return _Writer(program).write()


class Sizes:
    """Names of dynamic sizes, numbered as they are met: those of the inputs first."""

    def __init__(self) -> None:
        self._names: dict[Any, str] = {}

    def describe(self, value: Any) -> str:
        """`f32[1, s0, 64]` of a tensor, else an empty text."""
        if not isinstance(value, torch.Tensor):
            return ""
        dtype = WIDTH.get(value.dtype, str(value.dtype).removeprefix("torch."))
        return self.tensor(dtype, value.shape)

    def tensor(self, dtype: str, shape: Any) -> str:
        """A dtype and a shape as text."""
        return f"{dtype}[{', '.join(map(self.size, shape))}]"

    def size(self, size: Any) -> str:
        """A size as text: a number, a name, or what is computed of such."""
        expression = size.node.expr if isinstance(size, torch.SymInt) else size
        if not isinstance(expression, sympy.Expr):
            return str(expression)
        found = sorted(expression.free_symbols, key=str)
        names = {s: self._names.setdefault(s, f"s{len(self._names)}") for s in found}
        return str(expression.xreplace({s: sympy.Symbol(n) for s, n in names.items()})).replace(" ", "")


class _Writer:
    def __init__(self, program: Program) -> None:
        assert program.graph is not None
        self.program = program
        self.graph = program.graph
        self.sizes = Sizes()
        self.state = {s.name for s in program.state}
        self.blocks = {b.name for b in program.chain}
        self.taken: set[str] = set()

    def write(self) -> Body:
        body: Body = []
        scope: dict[str, Any] = {}
        inputs = self.graph.graph.find_nodes(op="placeholder")
        for node in inputs:
            self.sizes.describe(node.meta.get("val"))
            scope[node.name] = Ref(node.name, node.name in self.state)
            self.taken.add(node.name)
        pending: dict[Node, tuple[str, ...]] = {}
        for node in self.graph.graph.nodes:
            if node.op == "call_module":
                stage = self.program.stages[str(node.target)]
                results = self._stage(stage, scope, body)
                scope.update(zip(stage.outputs, results, strict=True))
                pending[node] = stage.outputs
            elif node.op == "call_function" and node.target is conditional:
                self._branch(node, scope, body)
            elif node.op == "output":
                given: Any = node.args[0]
                body.append(Statement((), Call("return", tuple(scope[n.name] for n in given))))
        return body

    def _branch(self, node: Node, scope: dict[str, Any], body: Body) -> None:
        hit, skip, compute = (n for n in node.args[:3] if isinstance(n, Node))
        stages = [self.program.stages[str(n.target)] for n in (skip, compute)]
        results = [Ref(self._free(name)) for name in stages[0].outputs]
        parts: list[Body] = []
        before, met = self.taken, set()
        for stage in stages:  # of which only one runs: they may use the same names
            part: Body = []
            self.taken = set(before)
            self._stage(stage, scope, part, results)
            parts.append(part)
            met |= self.taken
        self.taken = met
        scope.update(zip(stages[1].outputs, results, strict=True))
        body.append(Branch(scope[hit.name], *parts))

    def _stage(
        self, stage: Stage, outer: Mapping[str, Any], body: Body, results: list[Ref] | None = None
    ) -> list[Any]:
        """Write a stage's statements; returns its outputs. results: names that they must have."""
        nodes = list(stage.graph.graph.nodes)
        placeholders = [n for n in nodes if n.op == "placeholder"]
        values: dict[Node, Any] = {n: outer[name] for n, name in zip(placeholders, stage.inputs, strict=True)}
        outputs: Any = stage.graph.graph.output_node().args[0]
        wanted: dict[Node, str] = {}
        for place, (node, name) in enumerate(zip(outputs, stage.outputs, strict=True)):
            if node.op not in ("placeholder", "get_attr"):
                wanted.setdefault(node, results[place].name if results else self._free(name))
        for node in nodes:
            if node.op in ("call_function", "call_module", "call_method"):
                effect = not node.users
                name = wanted.get(node) or ("" if effect else self._free(node.name))
                values[node] = Ref(name)
                body.append(self._statement(stage.graph, node, values, name))
            elif node.op == "get_attr":
                values[node] = Ref(f"self.{node.target}")
        given = [values[n] for n in outputs]
        for result, value in zip(results or (), given, strict=bool(results)):
            if result != value:
                body.append(Statement((result,), value))
        return given

    def _statement(self, root: GraphModule, node: Node, values: Mapping[Node, Any], name: str) -> Statement:
        def arguments(value: Any) -> Any:
            if isinstance(value, Node):
                return values[value]
            if isinstance(value, (list, tuple)):
                parts = [arguments(v) for v in value]
                return parts if isinstance(value, list) else tuple(parts)
            if isinstance(value, dict):
                return {k: arguments(v) for k, v in value.items()}
            return value

        args, kwargs = _without_defaults(root, node)
        given, named = tuple(map(arguments, args)), {k: arguments(v) for k, v in kwargs.items()}
        shapes = tuple(filter(None, [self.sizes.describe(node.meta.get("val"))]))
        if node.op == "call_function" and node.target is operator.getitem:
            return Statement((Ref(name),), Call("getitem", given), shapes)
        if node.target is store:
            return Statement((given[0],), given[1])
        target, block = f"self.{node.target}", str(node.target) in self.blocks
        if node.op != "call_module":
            target, block = _title(node.target), False
        names = (Ref(name),) if name else ()
        return Statement(names, Call(target, given, named, block), shapes)

    def _free(self, name: str) -> str:
        chosen, number = name, 1
        while chosen in self.taken:
            chosen, number = f"{name}_{number}", number + 1
        self.taken.add(chosen)
        return chosen


def _without_defaults(root: GraphModule, node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call but for those that are what the callee would take anyway."""
    try:
        called: Any = node.target
        if node.op == "call_module":
            module = root.get_submodule(str(node.target))
            called = module.forward if isinstance(module, nn.Module) else None
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError, AttributeError):
        return node.args, dict(node.kwargs)
    kwargs = {
        k: v for k, v in node.kwargs.items() if k not in parameters or not _is_default(v, parameters[k])
    }
    args, ordered = list(node.args), list(parameters.values())
    while args and len(args) <= len(ordered) and _is_default(args[-1], ordered[len(args) - 1]):
        args.pop()
    return tuple(args), kwargs


def _is_default(value: Any, parameter: inspect.Parameter) -> bool:
    plain = (type(None), bool, int, float, str)
    return isinstance(value, plain) and type(value) is type(parameter.default) and value == parameter.default


def _title(target: str | Callable[..., Any]) -> str:
    if isinstance(target, str):
        return target
    owner = getattr(target, "__self__", None)
    if owner is not None and hasattr(owner, "order"):
        return f"{type(owner).__name__}.{target.__name__}"
    text = str(target)
    if text.startswith("aten."):
        return text.rpartition(".")[0]
    return getattr(target, "__name__", text)


def names_in(value: Any) -> Iterator[Ref]:
    """Every reference in a value, as often as it is there."""
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, Call):
        for part in (*value.args, *value.kwargs.values()):
            yield from names_in(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from names_in(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from names_in(part)


def is_materialize(value: Any) -> bool:
    """Whether a value is another one, made dense."""
    return isinstance(value, Call) and value.target == materialize.__name__
