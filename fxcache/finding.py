"""Find the blocks of a model: try ways of choosing what stays whole until one shows a chain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import nn

from .capture import Capture
from .errors import CaptureError, FxcacheError, NoBlocksError
from .ir import Program
from .modulelists import Way, find_leaves, is_small, ways

OPENINGS = 4  # wrappers inside one another that are opened to look for repeated calls


def first_chain(
    model: nn.Module, capture: Callable[[Way], Capture], passes: Callable[[Capture, Way], Program]
) -> Program:
    """The program of the first way that finds a chain.

    Raises `NoBlocksError` where none does, and what `capture` raises for the first way.
    """
    captures: dict[frozenset[str], Capture] = {}
    refused: list[FxcacheError] = []
    for way in _all_ways(model, captures):
        leaves = frozenset(find_leaves(model, way))
        try:
            if leaves not in captures:
                captures[leaves] = capture(way)
            return passes(captures[leaves], way)
        except CaptureError as error:  # with other leaves; those of the first way are the usual ones
            if not captures:
                raise
            refused.append(error)
        except NoBlocksError as error:
            refused.append(error)
    raise refused[0]


def _all_ways(model: nn.Module, captures: dict[frozenset[str], Capture]) -> Iterator[Way]:
    """Those that the model's structure suggests; then those that open its heaviest module."""
    yield from ways(model)
    way = Way(by_class=True)
    for _ in range(OPENINGS):
        captured = captures.get(frozenset(find_leaves(model, way)))
        heaviest = _heaviest(captured) if captured is not None else None
        if heaviest is None:
            return
        way = replace(way, opened=way.opened | {heaviest})
        yield way


def _heaviest(captured: Capture) -> str | None:
    weights = {
        name: sum(p.numel() for p in leaf.parameters())
        for name, leaf in captured.leaves.items()
        if not is_small(leaf) and any(True for _ in leaf.children())
    }
    return max(weights, key=weights.__getitem__, default=None)
