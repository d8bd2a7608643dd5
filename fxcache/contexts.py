"""Contexts: the trajectories of each caller of a transformed model."""

from __future__ import annotations

from .callers import Callers
from .context import Context
from .signature import Call
from .trajectories import Trajectories
from .variants import Variant

__all__ = ["Context", "Contexts"]


class Contexts(Callers[Trajectories]):
    """All contexts of one transformed model, and which one is current.

    limit: how many contexts may hold state at once.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit, Trajectories)

    def state_for(self, variant: Variant, call: Call) -> Context:
        """The state that `call` continues, in this thread and the enclosing `named` block.

        Raises `TooManyContextsError` where that would be one context more than the limit.
        """
        return self.mine().find(variant, call, variant.roles)

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
