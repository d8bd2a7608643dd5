"""Random numbers come from one sequence: a graph that takes them in another order gives other pictures."""

from __future__ import annotations

from ..capture.sanitize_trace import RANDOM
from ..errors import CaptureError
from ..ir.keys import stage_names
from ..ir.program import Program
from ..ir.stage import Stage


def refuse_reordered(program: Program) -> None:
    """Raise `CaptureError` where a computed step would not take random numbers in the forward's order."""
    total = sum(RANDOM in n.meta for n in program.capture.graph.graph.nodes)
    if not total:
        return
    count = len(program.segments)
    pairs = zip(stage_names("front", count), stage_names("compute", count), strict=True)
    names = [*(name for pair in pairs for name in pair), "back"]
    taken = [i for name in names for i in drawn(program.stages[name])]
    if taken != list(range(total)):
        names_drawn = [n.name for n in program.capture.graph.graph.nodes if RANDOM in n.meta]
        why = f"the cached graph would take random numbers in another order ({', '.join(names_drawn[:4])})"
        raise CaptureError(type(program.capture.model).__name__, {program.capture.how: why})


def drawn(stage: Stage) -> list[int]:
    """The places, in the forward's order, of the calls in a stage that take random numbers."""
    nodes = (n for n in stage.graph.graph.nodes if n.op != "placeholder")  # these have their source's meta
    return [n.meta[RANDOM] for n in nodes if RANDOM in n.meta]
