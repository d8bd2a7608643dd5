"""Names in graphs: those that fxcache gives, and a model's own, which must not meet them.

State tensors, what stages hand on and the stages themselves have names of their own; a model may call
its inputs and modules the same, or what Python's syntax or a graph module does not allow.
"""

from __future__ import annotations

import functools
import keyword
import re

from torch import nn
from torch.fx import Graph, GraphModule

from ..torch_private import rename
from .keys import NUMBERED

NUMBERED_STAGES = "front|skip|compute|miss|_object"
NAMES = "self|front|skip|compute|back|hit|miss|step"
RESERVED = re.compile(rf"({NUMBERED}|{NUMBERED_STAGES})_\d+|.*_history|{NAMES}")


def identifier(name: str) -> str:
    """`name` with everything replaced that no identifier may hold."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in name).strip("_")


def node_name(path: str) -> str:
    """How a node is called after the module or tensor at `path`: in small letters, as `torch.fx` makes them
    wherever a value gets a node of its own, so that it keeps its name in every stage."""
    return path.replace(".", "_").lower()


def avoid_reserved(graph: Graph) -> None:
    """Rename the nodes of a captured graph that are called what fxcache will call something else."""
    for node in graph.nodes:
        if node.op == "output" or not RESERVED.fullmatch(node.name):
            continue
        rename(node, f"{node.name}_of_model")
        if node.op == "placeholder":
            node.target = node.name


def attribute_names() -> frozenset[str]:
    """Names that a module held by a graph module cannot have: its own attributes."""
    return _of_a_graph_module() | frozenset(dir(GraphModule))  # which others may add to meanwhile


@functools.cache
def _of_a_graph_module() -> frozenset[str]:
    return frozenset(dir(GraphModule(nn.Module(), Graph())))


def attribute(path: str, taken: frozenset[str]) -> str:
    """The dotted `path` as generated code can spell it, in a graph module whose attributes are `taken`."""
    parts = path.split(".")
    if parts[0] not in taken and all(p.isdigit() or _spelled(p) for p in parts):
        return path
    return "_".join(map(identifier, parts)) + "_of_model"


def _spelled(part: str) -> bool:
    return part.isidentifier() and not keyword.iskeyword(part)
