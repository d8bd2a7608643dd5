"""Find the blocks of a model: try ways of choosing what stays whole until one shows a chain."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import nn

from ..errors import CaptureError, FxcacheError, NoBlocksError
from ..ir.captured import Capture
from ..ir.module_lists import Way, find_leaves, is_small, ways
from ..ir.program import Program

OPENINGS = 4  # wrappers inside one another that are opened to look for repeated calls


def first_chain(
    model: nn.Module,
    capture: Callable[[Way], Capture],
    passes: Callable[[Capture, Way], Program],
    by_calls: Callable[[], Way | None],
) -> Program:
    """The program of the first way that finds a chain.

    by_calls: the way that what the model calls suggests, which is found out last.

    Raises `NoBlocksError` where none does, and what `capture` raises for the first way.
    """
    captures: dict[frozenset[str], Capture] = {}
    refused: list[FxcacheError] = []

    def attempt(way: Way) -> Program:
        leaves = frozenset(find_leaves(model, way))
        if leaves not in captures:
            captures[leaves] = capture(way)
        return passes(captures[leaves], way)

    for way in itertools.chain(ways(model), _openings(model, captures)):
        try:
            return attempt(way)
        except CaptureError as error:
            refused.append(error)
            if not captures:  # what the usual leaves do not help, others do not either
                break
        except NoBlocksError as error:
            refused.append(error)
    with contextlib.suppress(CaptureError, NoBlocksError):
        last = by_calls()
        if last is not None and (captures or _has_unheld(model, last)):
            return attempt(last)
    raise refused[0]


def _has_unheld(model: nn.Module, way: Way) -> bool:
    """Whether leaves are modules that `model` does not hold, which the usual ways trace into."""
    held = set(model.modules())
    return any(leaf not in held for _, leaf in way.leaves)


def _openings(model: nn.Module, captures: dict[frozenset[str], Capture]) -> Iterator[Way]:
    """Ways that open the heaviest module, and the heaviest in that, and so on."""
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
