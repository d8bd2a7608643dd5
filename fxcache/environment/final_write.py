"""A write to Python state that stays when the forward is over, as a graph does it again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .module_mutations import FinalWrite
from .reachable_state import MISSING
from .structure import Structure


@dataclass(frozen=True)
class Final:
    """A write. value: what is stored, a `Slot` where it is one of the graph's further outputs."""

    write: FinalWrite
    value: Structure | None

    def store(self, further: Sequence[Any]) -> None:
        """Write as the forward would."""
        place = self.write.place
        place.set(self.write.key, MISSING if self.value is None else self.value.fill(further))
