"""What a forward leaves written in Python state, cut out of its trace: memos, counters, the last features.

The tensors that such writes store become outputs of the graph, after the model's own; each run of the
graph ends with the same writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch

from ..environment.final_write import Final
from ..environment.module_mutations import FinalWrite
from ..environment.opaque_objects import is_opaque, tensors_within
from ..environment.reachable_state import MISSING
from ..environment.refused_trace import RefusedTrace
from ..environment.structure import DYNAMIC, Slot, Structure
from ..torch_private import FakeTensor, pytree
from .record_leaves import is_traced
from .traced_numbers import plain_number


def cut_finals(writes: Iterable[FinalWrite]) -> tuple[list[Final], list[torch.Tensor]]:
    """The writes of a trace under way, and the traced tensors that they store.

    Raises `RefusedTrace` where a value cannot be had from the graph again.
    """
    finals: list[Final] = []
    stored: list[torch.Tensor] = []
    for found in writes:
        write = replace(found, key=plain_number(found.key))
        if write.value is MISSING:
            finals.append(Final(write, None))
            continue
        leaves, spec = pytree.tree_flatten(write.value)
        finals.append(Final(write, Structure([_cut(leaf, stored, write.name) for leaf in leaves], spec)))
    return finals, stored


def _cut(value: Any, stored: list[torch.Tensor], name: str) -> Any:
    if isinstance(value, torch.Tensor) and is_traced(value):
        stored.append(value)
        return Slot(len(stored) - 1)
    if isinstance(value, FakeTensor):
        raise RefusedTrace(f"its forward stores in '{name}' a tensor that a module made beside its results")
    if isinstance(value, DYNAMIC) and not isinstance(value, torch.Tensor):
        raise RefusedTrace(f"its forward stores a size in '{name}'")
    if is_opaque(value) and any(map(is_traced, tensors_within(value))):
        raise RefusedTrace(f"its forward stores in '{name}' a {type(value).__name__} made of its inputs")
    return value
