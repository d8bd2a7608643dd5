"""Join consecutive stages into one: what follows a decision, up to the next one, runs as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch.fx import Graph, GraphModule, Node

from ...ir.keys import ValueKey, stage_names
from ...ir.program import Program
from ...ir.stage import Stage
from ...ops.clock import commit_hit, commit_miss, log_step
from ...ops.cond import store
from ...ops.history import remember
from ...runtime.random_order import drawn

WRITERS = (store, remember, commit_hit, commit_miss, log_step)  # each writes its first argument
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
    stages = program.stages
    root = program.capture.graph
    trunks = [*(stages[n] for n in stage_names("front", count)), stages["back"]]
    skips = [stages[n] for n in stage_names("skip", count)]
    computes = [stages[n] for n in stage_names("compute", count)]
    # What a stage must give: everything that any later stage takes.
    later: list[set[str]] = [set()]
    for skip, compute, trunk in zip(reversed(skips), reversed(computes), reversed(trunks[1:]), strict=True):
        later.append(later[-1] | {*skip.inputs, *compute.inputs, *trunk.inputs})
    later.reverse()
    hits, misses = [], []
    for i in range(count):
        suffix = "" if count == 1 else f"_{i}"
        wanted = trunks[i + 1].outputs if i + 1 == count else _needed(later[i + 1], skips[i], trunks[i + 1])
        hits.append(join(root, "hit" + suffix, (skips[i], trunks[i + 1]), wanted))
        misses.append(join(root, "miss" + suffix, (computes[i], trunks[i + 1]), wanted))
    waits = _waits(program, hits[0], misses[0])
    speculated = _speculate(root, trunks[0], hits[0], misses[0]) if waits is None else None
    return Path(trunks[0], tuple(hits), tuple(misses), speculated, waits)


def _may_hit(program: Program) -> bool:
    config = program.config
    return bool(config.plans) or config.residual_diff_threshold > 0 or config.steps_mask_policy == "static"


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


def _speculate(root: GraphModule, front: Stage, hit: Stage, miss: Stage) -> Stage:
    """Front and hit as one stage: a cached step is then one call of compiled code.

    It also gives what a miss needs of the front. A miss counts and logs the step anew, from what the
    clock said before, so that a hit that should not have been leaves nothing behind.
    """
    needed = (n for n in miss.inputs if n in front.outputs)
    return join(root, "step", (front, hit), (ValueKey("hit").name, *hit.outputs, *needed))


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


def join(root: GraphModule, name: str, stages: Sequence[Stage], outputs: tuple[str, ...]) -> Stage:
    """One stage that runs `stages`, whose modules `root` holds, in turn and returns `outputs`."""
    graph = Graph()
    produced = {n for stage in stages for n in stage.outputs}
    used = {stage.name: _used_inputs(stage) for stage in stages}
    inputs = tuple(
        dict.fromkeys(n for s in stages for n in s.inputs if n in used[s.name] and n not in produced)
    )
    values: dict[str, Node] = {n: graph.placeholder(n) for n in inputs}
    for stage in stages:
        results = _inline(graph, stage, values)
        values.update(zip(stage.outputs, results, strict=True))
    graph.output(tuple(values[n] for n in outputs))
    module = GraphModule(root, graph, class_name=name.title().replace("_", ""))
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
