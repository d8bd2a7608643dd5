"""Cut a stage in two: what it computes, and what it writes to the state.

An engine is a pure function. So the nodes that exist for their effect (`store`, `remember`, `commit_hit`,
`log_step`) leave the stage; what they need becomes outputs of the pure part, and they run after it, in their
old order, in PyTorch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from torch import nn
from torch.fx import Graph, GraphModule, Node

from ...errors import GraphSpecError
from ...ir.stage import Stage


@dataclass(frozen=True)
class PureStage:
    """A stage without effects, and its effects as a module of their own.

    inputs, outputs: of the pure part, by name. needs: what the effects take, by name.
    """

    graph: GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    effects: GraphModule | None
    needs: tuple[str, ...]


def split_side_effects(stage: Stage) -> PureStage:
    """Split `stage`. Raises `GraphSpecError` where a value is read after it was overwritten."""
    nodes = list(stage.graph.graph.nodes)
    effects = dict.fromkeys(n for n in nodes if n.op == "call_function" and not n.users)
    _check_order(stage.name, nodes, effects)
    names = _names(stage)
    needed = dict.fromkeys(n for e in effects for n in e.all_input_nodes)
    graph, values = _pure(stage, effects)
    made = {n: v for n, v in values.items() if n in needed and n.op != "placeholder"}
    results = dict(zip(stage.outputs, stage.graph.graph.output_node().args[0], strict=True))  # type: ignore[arg-type]
    outputs = {name: values[node] for name, node in results.items()}
    given = {node: name for name, node in results.items()}
    for node in made:
        if node not in given:
            outputs[names[node]] = values[node]
            given[node] = names[node]
    graph.output(tuple(outputs.values()))
    graph.lint()
    used = {n for n in nodes if n.op == "placeholder" and not n.users.keys() <= effects.keys()}
    for node in nodes:
        if node.op == "placeholder" and node not in used:
            graph.erase_node(values[node])
    pure = GraphModule(stage.graph, graph, class_name=f"Pure{stage.name.title()}")
    inputs = tuple(names[n] for n in nodes if n in used)
    needs = {n: given.get(n, names[n]) for n in needed}
    return PureStage(pure, inputs, tuple(outputs), _effects(effects, needs), tuple(needs.values()))


def _names(stage: Stage) -> dict[Node, str]:
    """A name for every value: inputs as the program calls them, others by stage and node."""
    placeholders = stage.graph.graph.find_nodes(op="placeholder")
    names = {n: f"{stage.name}.{n.name}" for n in stage.graph.graph.nodes}
    return {**names, **dict(zip(placeholders, stage.inputs, strict=True))}


def _pure(stage: Stage, effects: Collection[Node]) -> tuple[Graph, dict[Node, Node]]:
    graph, values = Graph(), dict[Node, Node]()
    for node in stage.graph.graph.nodes:
        if node.op != "output" and node not in effects:
            values[node] = graph.node_copy(node, lambda n: values[n])
    return graph, values


def _effects(effects: Collection[Node], needs: dict[Node, str]) -> GraphModule | None:
    if not effects:
        return None
    graph = Graph()
    values = {node: graph.placeholder(f"value_{i}") for i, node in enumerate(needs)}
    for node in effects:
        graph.node_copy(node, lambda n: values[n])
    graph.output(())
    return GraphModule(nn.Module(), graph, class_name="Effects")


def _check_order(stage: str, nodes: list[Node], effects: Iterable[Node]) -> None:
    """An effect's first argument is what it writes; nothing may read that afterwards."""
    place = {node: i for i, node in enumerate(nodes)}
    for effect in effects:
        slot = effect.args[0]
        assert isinstance(slot, Node)
        late = [u for u in slot.users if place[u] > place[effect]]
        if late:
            raise GraphSpecError(stage, f"'{late[0]}' reads '{slot}' after '{effect}' wrote to it")
