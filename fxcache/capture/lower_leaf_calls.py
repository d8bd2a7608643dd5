"""Turn a raw trace into a captured graph: leaf calls become `call_module` on the original modules."""

from __future__ import annotations

import itertools
import operator
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from ..environment.opaque_objects import is_opaque
from ..environment.refused_trace import RefusedTrace
from ..environment.structure import Slot, Structure
from ..ir.names import attribute, attribute_names, avoid_reserved, identifier, node_name
from ..torch_private import FakeTensor, rename
from .leaf_adapter import Flat, LeafAdapter, Path, places_of
from .leaf_call import leaf_call
from .record_leaves import LeafRecord
from .sanitize_trace import ASSERTIONS


def finish_graph(
    traced: GraphModule, model: nn.Module, calls: list[LeafRecord], names: tuple[str, ...]
) -> GraphModule:
    """The captured graph, its modules and parameters those of `model`."""
    graph = traced.graph
    holder = nn.Module()  # collects what the graph refers to, under the model's own names
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is leaf_call:
            _insert_module_call(graph, node, calls[node.args[0]], holder)
        elif node.op == "call_function" and node.target in ASSERTIONS:
            graph.erase_node(node)
        elif node.target is torch.ops.aten.sym_numel.default:
            node.target = torch.numel  # Dynamo takes no operator that gives a number
    _name_attributes(graph, traced, model, holder)
    for node, name in zip(graph.find_nodes(op="placeholder"), names, strict=True):
        rename(node, identifier(name))
        node.target = node.name
    avoid_reserved(graph)
    owned = Graph()  # a graph belongs to one module: the trace's stays with the trace
    outputs: Any = owned.graph_copy(graph, {})
    owned.output(tuple(outputs))
    result = GraphModule(holder, owned, class_name="Captured" + type(model).__name__)
    if result.graph.eliminate_dead_code():
        result.recompile()
    result.graph.lint()
    return result


def _insert_module_call(graph: Graph, node: Node, record: LeafRecord, holder: nn.Module) -> None:
    outcome, arguments = record.outcome, record.arguments
    assert outcome is not None
    flat = None
    if outcome.written or arguments.opened or outcome.outputs.opened:
        flat = Flat(arguments, outcome.written, places_of(outcome.outputs))
    name = _registered(holder, record, flat)
    label = node_name(record.name)
    if flat is not None:
        node.op, node.target, node.args = "call_module", name, node.args[1:]
        rename(node, label)
        return
    constants = [_as_argument(c, holder, graph, node) for c in arguments.constants]
    args, kwargs = Structure(constants, arguments.spec).fill(node.args[1:])
    with graph.inserting_before(node):
        call = graph.create_node("call_module", name, args, kwargs, name=label)
    call.meta = dict(node.meta)
    call.meta["val"] = outcome.outputs.fill(node.meta["val"])
    places = places_of(outcome.outputs)
    for user in list(node.users):
        _redirect(graph, user, call, places[user.args[1]])  # type: ignore[index]
    graph.erase_node(node)


def _registered(holder: nn.Module, record: LeafRecord, flat: Flat | None) -> str:
    """The name in `holder` of what calls the leaf as it was recorded.

    The leaf's own, as a rule; a leaf that is called in several ways has one more for each.
    """
    wanted = LeafAdapter(record.module, record.changed, flat) if flat or record.changed else record.module
    for i in itertools.count():
        name = f"{record.name}__{i}" if i else record.name
        known = _submodule(holder, name)
        if known is None:
            put_submodule(holder, name, wanted)
            return name
        if known is wanted or (isinstance(known, LeafAdapter) and known.calls_like(wanted)):
            return name
    raise AssertionError("unreachable")


def _submodule(holder: nn.Module, name: str) -> nn.Module | None:
    try:
        return holder.get_submodule(name)
    except AttributeError:
        return None


def _as_argument(constant: Any, holder: nn.Module, graph: Graph, before: Node) -> Any:
    """Constants that code generation cannot print travel as attributes of the graph module."""
    if isinstance(constant, Structure):
        return Structure([_as_argument(c, holder, graph, before) for c in constant.constants], constant.spec)
    if isinstance(constant, Slot) or not is_opaque(constant):
        return constant
    name = f"_object_{sum(1 for n in vars(holder) if n.startswith('_object_'))}"
    setattr(holder, name, constant)
    with graph.inserting_before(before):
        return graph.create_node("get_attr", name)


def _redirect(graph: Graph, user: Node, call: Node, path: Path) -> None:
    """`user` is `getitem(leaf_call, k)`; make it take the same value out of the module's result."""
    current, value = call, call.meta["val"]
    label = call.name
    for kind, key in path:
        function = getattr if kind == "attribute" else operator.getitem
        value = function(value, key)
        label = node_name(f"{label}_{identifier(str(key))}")
        known = [u for u in current.users if u.target is function and u.args == (current, key)]
        if known:
            current = known[0]
            continue
        with graph.inserting_before(user):
            current = graph.call_function(function, (current, key), name=label)
        current.meta["val"] = value
    if current is not call:
        current.meta = dict(user.meta)
    user.replace_all_uses_with(current)
    graph.erase_node(user)


def put_submodule(holder: nn.Module, name: str, module: nn.Module) -> None:
    """Register `module` in `holder` under a dotted name."""
    *parents, last = name.split(".")
    for parent in parents:
        if parent not in holder._modules:
            holder.add_module(parent, nn.Module())
        holder = holder.get_submodule(parent)
    if last not in holder._modules:
        holder.add_module(last, module)


def _name_attributes(graph: Graph, traced: GraphModule, model: nn.Module, holder: nn.Module) -> None:
    """Constants that are the model's own tensors are read from the model, under their own names."""
    own: dict[int, tuple[str, torch.Tensor]] = {}
    taken = attribute_names()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        own[id(tensor)] = (name, tensor)
    for node in graph.find_nodes(op="get_attr"):
        if hasattr(holder, str(node.target)):
            continue
        value = _attribute(traced, str(node.target))
        if isinstance(value, FakeTensor) and id(value) not in own:  # a model may be made of fake ones
            raise RefusedTrace(f"the graph needs '{node.name}', a tensor that Python code made of the inputs")
        if id(value) in own:
            name = attribute(own[id(value)][0], taken)
            put_tensor(holder, name, value)
            node.target = name
            rename(node, node_name(name))
        else:
            setattr(holder, str(node.target), value)


def put_tensor(holder: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Register a parameter or buffer in `holder` under a dotted name."""
    *parents, last = name.split(".")
    for parent in parents:
        if parent not in holder._modules:
            holder.add_module(parent, nn.Module())
        holder = holder.get_submodule(parent)
    if hasattr(holder, last):  # reached through a leaf module, which owns it already
        if getattr(holder, last) is not tensor:
            raise RefusedTrace(f"the model has two things named '{name}'")
        return
    if isinstance(tensor, nn.Parameter):
        holder.register_parameter(last, tensor)
    else:
        holder.register_buffer(last, tensor)


def _attribute(module: nn.Module, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return value
