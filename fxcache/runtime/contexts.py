"""Contexts: the trajectories of each caller of a transformed model, or of a loaded package."""

from __future__ import annotations

from typing import Any

import torch

from ..capture.call_signature import Call
from .context import Trajectories
from .per_caller import Callers
from .served_graph import Served
from .stats import ContextStats, SegmentStats, Stats, context_stats
from .trajectory_state import Context


class Contexts(Callers[Trajectories]):
    """All contexts of one transformed model, and which one is current.

    limit: how many contexts may hold state at once.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit, Trajectories)

    def step(self, graph: Served, call: Call) -> tuple[Any, ...]:
        """Run `call` with the state that it continues, in this thread and the enclosing `named` block.

        Raises `TooManyContextsError` where that would be one context more than the limit.
        """
        context = self.mine().find(graph, call, graph.roles)
        if torch.is_grad_enabled():
            with torch.no_grad():
                return _advance(context, graph, call)
        return _advance(context, graph, call)

    def current(self) -> Context:
        """State of the last call in this thread and the enclosing `named` block."""
        return self.mine().current()

    def count_uncached(self) -> None:
        """A step of the current context ran without the cache."""
        self.mine().uncached_steps += 1

    def items(self) -> list[tuple[str, Context]]:
        """(label, state) of every trajectory.

        The trajectory of a context's last call has the context's name, those called before it `name/2`
        and so on.
        """
        labelled: list[tuple[str, Context]] = []
        for label, trajectories in self.entries():
            contexts = trajectories.contexts()
            if not contexts and trajectories.uncached_steps:
                contexts = [Context(uncached_steps=trajectories.uncached_steps)]
            for i, context in enumerate(contexts):
                labelled.append((label if i == 0 else f"{label}/{i + 1}", context))
        return labelled

    def stats(self) -> Stats:
        """What was cached in the last trajectory of each context."""
        return Stats({name: _stats_of(context) for name, context in self.items()})


def _advance(context: Context, graph: Served, call: Call) -> tuple[Any, ...]:
    state = context.tensors(graph, call)
    try:
        return graph.run(*call.tensors, *state)
    except BaseException:
        context.forget()  # a half-made step must leave nothing that a later one could use
        raise


def _stats_of(context: Context) -> ContextStats:
    if context.graph is None:
        return ContextStats((SegmentStats((False,) * context.uncached_steps, {}),), None, None, 0)
    return context_stats(context.state, context.graph.segments, context.flops())
