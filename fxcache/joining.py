"""Join consecutive stages into one: what follows a decision, up to the next one, runs as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from .ir import Program, Stage


@dataclass(frozen=True)
class Path:
    """The stages of a program as a host runs them: a front, then per segment a hit or a miss.

    Each hit is the skip and the trunk after it, each miss the compute and that trunk.
    """

    front: Stage
    hits: tuple[Stage, ...]
    misses: tuple[Stage, ...]


def host_path(program: Program) -> Path:
    """The joined stages of `program`."""
    count = len(program.segments)
    suffixes = [""] if count == 1 else [f"_{i}" for i in range(count)]
    stages = program.stages
    trunks = [stages["front" + s] for s in suffixes] + [stages["back"]]
    skips = [stages["skip" + s] for s in suffixes]
    computes = [stages["compute" + s] for s in suffixes]
    # What a stage must give: everything that any later stage takes.
    later: list[set[str]] = [set()]
    for skip, compute, trunk in zip(reversed(skips), reversed(computes), reversed(trunks[1:]), strict=True):
        later.append(later[-1] | {*skip.inputs, *compute.inputs, *trunk.inputs})
    later.reverse()
    hits, misses = [], []
    for i, suffix in enumerate(suffixes):
        wanted = trunks[i + 1].outputs if i + 1 == count else _needed(later[i + 1], skips[i], trunks[i + 1])
        hits.append(join("hit" + suffix, (skips[i], trunks[i + 1]), wanted))
        misses.append(join("miss" + suffix, (computes[i], trunks[i + 1]), wanted))
    return Path(trunks[0], tuple(hits), tuple(misses))


def _needed(later: set[str], branch: Stage, trunk: Stage) -> tuple[str, ...]:
    given = (*branch.outputs, *trunk.outputs)
    return tuple(n for n in given if n in later or n.startswith("hit_"))


def join(name: str, stages: Sequence[Stage], outputs: tuple[str, ...]) -> Stage:
    """One stage that runs `stages` in turn and gives `outputs`."""
    graph = Graph()
    produced = {n for stage in stages for n in stage.outputs}
    used = {stage.name: _used_inputs(stage) for stage in stages}
    inputs = tuple(
        dict.fromkeys(n for s in stages for n in s.inputs if n in used[s.name] and n not in produced)
    )
    values: dict[str, Node] = {n: graph.placeholder(n) for n in inputs}
    holder = nn.Module()
    for stage in stages:
        results = _inline(graph, stage, values)
        values.update(zip(stage.outputs, results, strict=True))
        _share_modules(holder, stage.graph)
    graph.output(tuple(values[n] for n in outputs))
    module = GraphModule(holder, graph, class_name=name.title().replace("_", ""))
    return Stage(name, module, inputs, outputs)


def _used_inputs(stage: Stage) -> set[str]:
    """Branches take the same operands; not each uses all of them."""
    nodes = stage.graph.graph.find_nodes(op="placeholder")
    return {name for name, node in zip(stage.inputs, nodes, strict=True) if node.users}


def _inline(graph: Graph, stage: Stage, values: dict[str, Node]) -> Sequence[Node]:
    placeholders = stage.graph.graph.find_nodes(op="placeholder")
    env = {
        node: values[name] for name, node in zip(stage.inputs, placeholders, strict=True) if name in values
    }
    for node in stage.graph.graph.nodes:
        if node.op not in ("placeholder", "output"):
            env[node] = graph.node_copy(node, lambda n: env[n])
    return [env[n] for n in stage.graph.graph.output_node().args[0]]  # type: ignore[union-attr, index]


def _share_modules(holder: nn.Module, source: GraphModule) -> None:
    """Let `holder` reach what the graph of `source` refers to."""
    for node in source.graph.nodes:
        if node.op not in ("call_module", "get_attr"):
            continue
        *parents, last = str(node.target).split(".")
        target, origin = holder, source
        for parent in parents:
            origin = getattr(origin, parent)
            if parent not in target._modules:
                target.add_module(parent, nn.Module() if type(origin) is nn.Module else origin)
            target = target.get_submodule(parent)
        if not hasattr(target, last):
            _set(target, last, getattr(origin, last))


def _set(owner: nn.Module, name: str, value: Any) -> None:
    if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter):
        owner.register_buffer(name, value)
    else:
        setattr(owner, name, value)


Runner = Callable[..., tuple[Any, ...]]


def host_runner(program: Program, path: Path, compiled: Callable[[Stage], Runner]) -> Runner:
    """A function of the flat inputs and the state that runs `path`, deciding on the host.

    `compiled` turns a stage into what runs it.
    """
    count = len(program.segments)
    placeholders = program.capture.graph.graph.find_nodes(op="placeholder")
    names = (*(n.name for n in placeholders), *(s.name for s in program.state))
    front = compiled(path.front)
    hits, misses = [compiled(s) for s in path.hits], [compiled(s) for s in path.misses]
    front_at = [names.index(n) for n in path.front.inputs]
    picks = _picks(names, path)
    decisions = [_decision(path, i) for i in range(count)]

    def run(*values: Any) -> tuple[Any, ...]:
        results = front(*[values[i] for i in front_at])
        known = [values, results]
        for i in range(count):
            hit = bool(results[decisions[i]])
            stage, wanted = (hits[i], picks[i][0]) if hit else (misses[i], picks[i][1])
            results = stage(*[known[source][at] for source, at in wanted])
            known.append(results)
        return results  # type: ignore[no-any-return]

    return run


def _decision(path: Path, index: int) -> int:
    source = path.front if index == 0 else path.hits[index - 1]
    return source.outputs.index(f"hit_{index}")


def _picks(names: tuple[str, ...], path: Path) -> list[tuple[list[tuple[int, int]], ...]]:
    """For each hit and miss stage, where each of its inputs comes from: (which result, which item)."""
    where: dict[str, tuple[int, int]] = {n: (0, i) for i, n in enumerate(names)}
    where.update({n: (1, i) for i, n in enumerate(path.front.outputs)})
    picks: list[tuple[list[tuple[int, int]], ...]] = []
    for i, (hit, miss) in enumerate(zip(path.hits, path.misses, strict=True)):
        picks.append(([where[n] for n in hit.inputs], [where[n] for n in miss.inputs]))
        where.update({n: (i + 2, k) for k, n in enumerate(hit.outputs)})
    return picks
