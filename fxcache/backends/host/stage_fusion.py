"""Join consecutive stages into one: what follows a decision, up to the next one, runs as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node

from ...ir.interpret import suffixes
from ...ir.program import Program
from ...ir.stage import Stage
from ...ops.clock import commit_hit, commit_miss, log_step
from ...ops.cond import store
from ...runtime.random_order import drawn

WRITERS = (store, commit_hit, commit_miss, log_step)  # each writes its first argument
LIGHT = 0.05  # a hit is started on speculation where it uses at most so much of a miss's parameters


@dataclass(frozen=True)
class Path:
    """The stages of a program as a host runs them: a front, then per segment a hit or a miss.

    Each hit is the skip and the trunk after it, each miss the compute and that trunk. speculated: the
    front and the hit as one stage, started before the decision is known; a miss can follow it. waits:
    why that cannot be, and a hit starts after the decision.
    """

    front: Stage
    hits: tuple[Stage, ...]
    misses: tuple[Stage, ...]
    speculated: Stage | None
    waits: str | None = None

    def decided_first(self) -> Path:
        """The same without speculation."""
        return dataclasses.replace(self, speculated=None)


def host_path(program: Program) -> Path:
    """The joined stages of `program`."""
    count = len(program.segments)
    names = suffixes(count)
    stages = program.stages
    trunks = [stages["front" + s] for s in names] + [stages["back"]]
    skips = [stages["skip" + s] for s in names]
    computes = [stages["compute" + s] for s in names]
    # What a stage must give: everything that any later stage takes.
    later: list[set[str]] = [set()]
    for skip, compute, trunk in zip(reversed(skips), reversed(computes), reversed(trunks[1:]), strict=True):
        later.append(later[-1] | {*skip.inputs, *compute.inputs, *trunk.inputs})
    later.reverse()
    hits, misses = [], []
    for i, suffix in enumerate(names):
        wanted = trunks[i + 1].outputs if i + 1 == count else _needed(later[i + 1], skips[i], trunks[i + 1])
        hits.append(join("hit" + suffix, (skips[i], trunks[i + 1]), wanted))
        misses.append(join("miss" + suffix, (computes[i], trunks[i + 1]), wanted))
    waits = _waits(program, hits[0], misses[0])
    speculated = _speculate(trunks[0], hits[0], misses[0]) if waits is None else None
    return Path(trunks[0], tuple(hits), tuple(misses), speculated, waits)


def _may_hit(program: Program) -> bool:
    config = program.config
    return config.residual_diff_threshold > 0 or config.steps_mask_policy == "static"


def _waits(program: Program, hit: Stage, miss: Stage) -> str | None:
    """Why a hit cannot start before the decision is known; None where it can."""
    if len(program.segments) > 1:
        return f"a step has {len(program.segments)} decisions"
    if not _may_hit(program):
        return "no step is a hit"
    used, all_used = _parameters(hit), _parameters(miss)
    if used > LIGHT * all_used:
        return f"a hit uses {used} parameters, more than {LIGHT:.0%} of the {all_used} of a miss"
    unwritten = _written(hit) - _written(miss)
    if unwritten:
        return f"a hit writes {', '.join(sorted(unwritten))}, which a miss does not write again"
    return "a hit takes random numbers" if drawn(hit) else None


def _speculate(front: Stage, hit: Stage, miss: Stage) -> Stage:
    """Front and hit as one stage: a cached step is then one call of compiled code.

    It also gives what a miss needs of the front. A miss counts and logs the step anew, from what the
    clock said before, so that a hit that should not have been leaves nothing behind.
    """
    needed = (n for n in miss.inputs if n in front.outputs)
    return join("step", (front, hit), ("hit_0", *hit.outputs, *needed))


def _parameters(stage: Stage) -> int:
    """Number of parameters that a stage uses."""
    calls = stage.graph.graph.find_nodes(op="call_module")
    found = {p for n in calls for p in stage.graph.get_submodule(str(n.target)).parameters()}
    return sum(p.numel() for p in found)


def _written(stage: Stage) -> set[str]:
    """Names of the state that a stage writes."""
    nodes: Iterable[Node] = stage.graph.graph.find_nodes(op="placeholder")
    names = dict(zip(nodes, stage.inputs, strict=True))
    return {
        names[n.args[0]]  # type: ignore[index]
        for n in stage.graph.graph.nodes
        if n.op == "call_function" and n.target in WRITERS and n.args[0] in names
    }


def _needed(later: set[str], branch: Stage, trunk: Stage) -> tuple[str, ...]:
    given = (*branch.outputs, *trunk.outputs)
    return tuple(n for n in given if n in later or n.startswith("hit_"))


def join(name: str, stages: Sequence[Stage], outputs: tuple[str, ...]) -> Stage:
    """One stage that runs `stages` in turn and returns `outputs`."""
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
