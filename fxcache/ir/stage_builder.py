"""Copy parts of a captured graph into stages."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from ..errors import GraphSpecError, UnknownSizeError
from ..ops.placement import moved
from ..torch_private import COPIES_UNKNOWN_SIZES, GuardOnDataDependentSymNode
from .blocks import Block
from .dataflow import same_layout
from .fake_values import FakeValues
from .stage import Stage
from .state import StateTensor

# Operators that read a tensor by its strides, whatever its sizes.
LAYOUT_BOUND = (torch.ops.aten.as_strided.default,)


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
    """Builds one stage; nodes for which `inside` holds are copied, all others become its inputs.

    Every node but get_attr carries `meta["val"]`: copies that of the original, the others what `fakes`
    finds.
    """

    def __init__(self, name: str, inside: Callable[[Node], bool], fakes: FakeValues) -> None:
        self.name = name
        self.fakes = fakes
        self.graph = Graph()
        self._inside = inside
        self._copies: dict[Key, Node] = {}
        self._inputs: dict[str, Node] = {}
        self._modules: dict[str, nn.Module] = {}  # those that passes add
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
        copied = {n: self._copies[_resolve(n, inner)] for n in node.all_input_nodes}
        copy = self._copies[key] = self.graph.node_copy(node, copied.__getitem__)
        if not all(same_layout(n.meta.get("val"), c.meta.get("val")) for n, c in copied.items()):
            try:
                self._lay_out(copy)
            except OpaqueValueError:
                self.graph.erase_node(self._copies.pop(key))
                raise

    def _lay_out(self, copy: Node) -> None:
        """Describe anew a copy whose operands are laid out otherwise than the original's.

        Raises `OpaqueValueError` where its operator cannot take them so, or would read other elements.
        """
        if copy.op != "call_function":  # a leaf, which does not run again
            return
        if copy.target in LAYOUT_BOUND:
            raise OpaqueValueError(f"'{copy.name}' reads by strides what the blocks lay out otherwise")
        if copy.target is torch.ops.aten.view.default:  # traced of a reshape, where it was possible
            copy.target = torch.ops.aten.reshape.default
        function: Any = copy.target
        try:
            copy.meta["val"] = self.fakes.result(function, copy.args, copy.kwargs)
        except GuardOnDataDependentSymNode:  # only how it is laid out depends on data
            return
        except RuntimeError as error:
            why = f"'{copy.name}' cannot take the streams as they are laid out before the blocks"
            raise OpaqueValueError(why) from error

    def copy(self) -> tuple[StageBuilder, Mapping[Node, Node]]:
        """Another that can be built on while this one stays as it is, and its node for each of this one's."""
        other, nodes = StageBuilder(self.name, self._inside, self.fakes), dict[Node, Node]()
        other.graph.graph_copy(self.graph, nodes)
        other._copies = {key: nodes[node] for key, node in self._copies.items()}
        other._modules = dict(self._modules)
        other._inputs = {name: nodes[node] for name, node in self._inputs.items()}
        other.outputs = {name: nodes[node] for name, node in self.outputs.items()}
        return other, nodes

    def state(self, tensor: StateTensor) -> Node:
        """The stage's input that holds a state tensor."""
        if tensor.name in self._inputs:
            return self._inputs[tensor.name]
        node = self.input(tensor.name)
        node.meta["val"] = self.fakes.state(tensor)
        return node

    def input(self, name: str, like: Node | None = None) -> Node:
        """The stage's input `name`, which holds what `like` does; made when first asked for."""
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

    def call(self, function: Callable[..., Any], *args: Any, named: str = "", **kwargs: Any) -> Node:
        """Add a call of an ordinary function; `named` is the node's name, if it is still free.

        Raises `GraphSpecError` where that fails on fake tensors.
        """
        node = self.graph.create_node("call_function", function, args, kwargs, name=named or None)
        return self._described(node, function, args, kwargs)

    def _described(
        self, node: Node, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Node:
        try:
            node.meta["val"] = self.fakes.result(function, args, kwargs)
        except RuntimeError as error:
            if isinstance(error, GuardOnDataDependentSymNode) and not COPIES_UNKNOWN_SIZES:
                raise UnknownSizeError(self.name, node.name, torch.__version__) from error
            raise GraphSpecError(self.name, f"'{node.name}' does not run on fake tensors: {error}") from error
        return node

    def on(self, node: Node, device: torch.device) -> Node:
        """`node` on `device`: itself where it is there, so that a model on one device has no such nodes."""
        return node if node.meta["val"].device == device else self.call(moved, node, device)

    def module(self, name: str, module: nn.Module, args: Sequence[Any], named: str) -> Node:
        """Add a call of a module that is none of the model's, under a name that the model does not have.

        Raises `GraphSpecError` where that fails on fake tensors.
        """
        self._modules[name] = module
        node = self.graph.create_node("call_module", name, tuple(args), {}, name=named)
        return self._described(node, module, args, {})

    def finish(self, root: nn.Module, inputs: Mapping[str, Node] | None = None) -> Stage:
        """The finished stage; `inputs` fixes which inputs it takes, in what order, and what each is like."""
        if inputs is not None:
            for name, like in inputs.items():
                self.input(name, like)
            ordered = [self._inputs[name] for name in inputs]
            for node in reversed(ordered):  # move to the front, in order
                next(iter(self.graph.nodes)).prepend(node)
            self._inputs = dict(zip(inputs, ordered, strict=True))
        self.graph.output(tuple(self.outputs.values()))
        self.graph.lint()
        module = GraphModule(self._parts(root), self.graph, class_name=self.name.title().replace("_", ""))
        return Stage(self.name, module, tuple(self._inputs), tuple(self.outputs))

    def _parts(self, root: nn.Module) -> nn.Module | dict[str, Any]:
        if not self._modules:
            return root
        named = [*self.graph.find_nodes(op="call_module"), *self.graph.find_nodes(op="get_attr")]
        own = {str(n.target) for n in named} - set(self._modules)
        return {**{name: operator.attrgetter(name)(root) for name in own}, **self._modules}

    @property
    def inputs(self) -> Mapping[str, Node]:
        """Its inputs so far, by name, in order."""
        return self._inputs
