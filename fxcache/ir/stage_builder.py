"""Copy parts of a captured graph into stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from .blocks import Block
from .stage import Stage


class OpaqueValueError(Exception):
    """A value that has no counterpart when the blocks are replaced by the identity."""


@dataclass(frozen=True)
class Identity:
    """Some blocks, replaced by the identity on their streams.

    carries: output value → the input that it continues. touched: every node that depends on a block.
    """

    carries: Mapping[Node, Node]
    blocks: frozenset[Node]
    touched: frozenset[Node]

    @staticmethod
    def on(blocks: Sequence[Block]) -> Identity:
        calls = {b.node for b in blocks}
        touched = set(calls)
        for node in next(iter(calls)).graph.nodes if calls else ():
            if any(n in touched for n in node.all_input_nodes):
                touched.add(node)
        carries = {value: carried for b in blocks for value, carried in b.carries.items()}
        return Identity(carries, frozenset(calls), frozenset(touched))


def is_free(node: Node) -> bool:
    """Nodes that every stage makes for itself: attributes, and sizes of the model's inputs."""
    if node.op == "placeholder":
        return False
    pending, seen = [node], {node}
    while pending:  # not by recursion: a size may be counted on from block to block
        current = pending.pop()
        if current.op in ("get_attr", "placeholder"):
            continue
        if not _is_number(current):
            return False
        pending.extend(n for n in current.all_input_nodes if n not in seen)
        seen.update(current.all_input_nodes)
    return True


def _is_number(node: Node) -> bool:
    numbers = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)
    return node.op == "call_function" and isinstance(node.meta.get("val"), numbers)


Key = tuple[Node, bool]  # a node of the captured graph, and whether its value in the skeleton is meant


def _resolve(node: Node, identity: Identity | None) -> Key:
    while identity is not None and node in identity.carries:
        node = identity.carries[node]
    return node, identity is not None and node in identity.touched


class StageBuilder:
    """Builds one stage; nodes for which `inside` holds are copied, all others become its inputs."""

    def __init__(self, name: str, inside: Callable[[Node], bool]) -> None:
        self.name = name
        self.graph = Graph()
        self._inside = inside
        self._copies: dict[Key, Node] = {}
        self._inputs: dict[str, Node] = {}
        self.outputs: dict[str, Node] = {}

    def value(self, node: Node, identity: Identity | None = None) -> Node:
        """The stage's own copy of `node`, made when first asked for.

        With `identity`, its value in the skeleton; raises `OpaqueValueError` where it has none.
        """
        asked = _resolve(node, identity)
        pending = [(asked, self._needs(asked, identity))]
        while pending:  # not by recursion: glue between blocks may be thousands of operators long
            current, needs = pending[-1]
            following = next((key for key in needs if key not in self._copies), None)
            if following is not None:
                pending.append((following, self._needs(following, identity)))
                continue
            pending.pop()
            self._make(current, identity)
        return self._copies[asked]

    def _needs(self, key: Key, identity: Identity | None) -> Iterator[Key]:
        """What must be copied before `key`, each in the form in which it uses it."""
        node, altered = key
        if not (self._inside(node) or is_free(node)):
            return iter(())
        if altered and identity is not None and node in identity.blocks:
            raise OpaqueValueError(
                f"it needs an output of '{node.name}' that continues none of its arguments"
            )
        return iter([_resolve(n, identity if altered else None) for n in node.all_input_nodes])

    def _make(self, key: Key, identity: Identity | None) -> None:
        node, altered = key
        if key in self._copies:
            return
        if not (self._inside(node) or is_free(node)):
            self._copies[key] = self.input(node.name, node)
            return
        inner = identity if altered else None
        self._copies[key] = self.graph.node_copy(node, lambda n: self._copies[_resolve(n, inner)])

    def input(self, name: str, like: Node | None = None) -> Node:
        """The stage's input `name`, made when first asked for."""
        if name not in self._inputs:
            placeholders = list(self._inputs.values())
            first = next(iter(self.graph.nodes), None)
            if placeholders:
                with self.graph.inserting_after(placeholders[-1]):
                    node = self.graph.placeholder(name)
            elif first is not None:
                with self.graph.inserting_before(first):
                    node = self.graph.placeholder(name)
            else:
                node = self.graph.placeholder(name)
            node.target = node.name
            if like is not None:
                node.meta = dict(like.meta)
            self._inputs[name] = node
        return self._inputs[name]

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        """Add a call of an ordinary function."""
        return self.graph.call_function(function, args, kwargs)

    def finish(self, root: nn.Module, inputs: tuple[str, ...] | None = None) -> Stage:
        """The finished stage; `inputs` fixes which inputs it takes and in what order."""
        if inputs is not None:
            for name in inputs:
                self.input(name)
            ordered = [self._inputs[name] for name in inputs]
            for node in reversed(ordered):  # move to the front, in order
                next(iter(self.graph.nodes)).prepend(node)
            self._inputs = dict(zip(inputs, ordered, strict=True))
        self.graph.output(tuple(self.outputs.values()))
        self.graph.lint()
        module = GraphModule(root, self.graph, class_name=self.name.title().replace("_", ""))
        return Stage(self.name, module, tuple(self._inputs), tuple(self.outputs))

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(self._inputs)
