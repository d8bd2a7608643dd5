"""A cached graph as text: the outer graph, then each of its stages."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from .program import Program
from .stage import Stage


@dataclass(frozen=True)
class CachedGraph:
    """A transformed graph to look at: `print` it, or take `module` (the outer graph; its stages are its
    submodules and the state its last inputs)."""

    program: Program

    @property
    def module(self) -> GraphModule:
        assert self.program.graph is not None
        return self.program.graph

    def __str__(self) -> str:
        return render(self.program)


def render(program: Program) -> str:
    """The program as a reader would write it: one line for each node."""
    assert program.graph is not None
    parts = [
        _function("cached", _names(program.graph.graph.find_nodes(op="placeholder")), program.graph.graph)
    ]
    parts += [_function(s.name, _placeholders(s), s.graph.graph) for s in program.stages.values()]
    return "\n\n".join(parts) + "\n"


def _placeholders(stage: Stage) -> list[str]:
    return _names(stage.graph.graph.find_nodes(op="placeholder"))


def _names(nodes: Any) -> list[str]:
    return [n.name for n in nodes]


def _function(name: str, inputs: list[str], graph: Any) -> str:
    lines = [f"def {name}({', '.join(inputs)}):"]
    for node in graph.nodes:
        if node.op == "output":
            lines.append(f"    return {_value(node.args[0])}")
        elif node.op not in ("placeholder", "get_attr"):
            effect = not node.users
            lines.append("    " + ("" if effect else f"{node.name} = ") + _call(node))
    return "\n".join(lines)


def _call(node: Node) -> str:
    if node.op == "call_function" and _title(node.target) == "getitem":
        return f"{_value(node.args[0])}[{_value(node.args[1])}]"
    arguments = [_value(a) for a in node.args] + [f"{k}={_value(v)}" for k, v in node.kwargs.items()]
    target = f"self.{node.target}" if node.op == "call_module" else _title(node.target)
    return f"{target}({', '.join(arguments)})"


def _title(target: str | Callable[..., Any]) -> str:
    if isinstance(target, str):
        return target
    owner = getattr(target, "__self__", None)
    if owner is not None and hasattr(owner, "order"):
        return f"{type(owner).__name__}.{target.__name__}"
    text = str(target)
    return text if text.startswith("aten.") else getattr(target, "__name__", text)


def _value(value: Any) -> str:
    if isinstance(value, Node):
        return f"self.{value.target}" if value.op == "get_attr" else value.name
    if isinstance(value, (list, tuple)):
        inner = ", ".join(_value(v) for v in value)
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{',' if len(value) == 1 else ''})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k!r}: {_value(v)}" for k, v in value.items()) + "}"
    return re.sub(r"\s+", " ", repr(value))
