"""Run compiled stages, deciding on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...ir.keys import ValueKey
from ...ir.program import Program
from ...ir.stage import Stage
from ...ops.known_decision import is_hit
from .stage_fusion import Path

Runner = Callable[..., tuple[Any, ...]]
Pick = list[tuple[int, int]]  # where each input of a stage comes from: (which results, which of them)


def host_runner(program: Program, path: Path, compiled: Callable[[Stage], Runner]) -> Runner:
    """A function of the flat inputs and the state that runs `path`.

    `compiled` turns a stage into what runs it.
    """
    placeholders = program.capture.graph.graph.find_nodes(op="placeholder")
    names = (*(n.name for n in placeholders), *(s.name for s in program.state))
    if path.speculated is not None:
        return _speculating(names, path, path.speculated, compiled)
    return _deciding(names, path, compiled)


def _speculating(
    names: Sequence[str], path: Path, step: Stage, compiled: Callable[[Stage], Runner]
) -> Runner:
    """Every step starts as a hit; one that was none goes on with the miss."""
    run_step, run_miss = compiled(step), compiled(path.misses[0])
    at = [names.index(n) for n in step.inputs]
    where = _places([names, step.outputs])
    wanted = [where[n] for n in path.misses[0].inputs]
    decision = step.outputs.index(ValueKey("hit").name)
    first = decision + 1
    outputs = slice(first, first + len(path.hits[0].outputs))

    def run(*values: Any) -> tuple[Any, ...]:
        results = run_step(*[values[i] for i in at])
        if is_hit(results[decision]):
            return results[outputs]
        known = (values, results)
        return run_miss(*[known[source][i] for source, i in wanted])

    return run


def _deciding(names: Sequence[str], path: Path, compiled: Callable[[Stage], Runner]) -> Runner:
    """Front, then by segment the hit or the miss."""
    front = compiled(path.front)
    hits, misses = [compiled(s) for s in path.hits], [compiled(s) for s in path.misses]
    at = [names.index(n) for n in path.front.inputs]
    trunks = [path.front, *path.hits]
    decisions = [t.outputs.index(ValueKey("hit", i).name) for i, t in enumerate(trunks[:-1])]
    picks: list[tuple[Pick, Pick]] = []
    for i, (hit, miss) in enumerate(zip(path.hits, path.misses, strict=True)):
        where = _places([names, *(t.outputs for t in trunks[: i + 1])])
        picks.append(([where[n] for n in hit.inputs], [where[n] for n in miss.inputs]))

    def run(*values: Any) -> tuple[Any, ...]:
        results = front(*[values[i] for i in at])
        known = [values, results]
        for i, (of_hit, of_miss) in enumerate(picks):
            hit = is_hit(results[decisions[i]])
            stage, wanted = (hits[i], of_hit) if hit else (misses[i], of_miss)
            results = stage(*[known[source][k] for source, k in wanted])
            known.append(results)
        return results

    return run


def _places(results: Sequence[Sequence[str]]) -> dict[str, tuple[int, int]]:
    """Where each name is found; the latest counts."""
    return {name: (source, i) for source, given in enumerate(results) for i, name in enumerate(given)}
