"""How a model may hold its blocks, and how its forward goes through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

Blocks = list[Any]


class Wrapper(nn.Module):
    """A module that holds a model's parts, as `model.core.layers`."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()
        self.layers = nn.ModuleList(blocks)


class Holder:
    """An object, no module, that holds the blocks."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = tuple(blocks)


def _two_lists(model: Any, blocks: Blocks) -> None:
    half = len(blocks) // 2
    model.first, model.later = nn.ModuleList(blocks[:half]), nn.ModuleList(blocks[half:])


def _set(name: str, make: Callable[[Blocks], Any]) -> Callable[[Any, Blocks], None]:
    def hold(model: Any, blocks: Blocks) -> None:
        setattr(model, name, make(blocks))

    return hold


def _attributes(model: Any, blocks: Blocks) -> None:
    for i, block in enumerate(blocks):
        setattr(model, f"block{i}", block)


CONTAINERS: dict[str, tuple[Callable[[Any, Blocks], None], Callable[[Any, int], Blocks]]] = {
    "module_list": (_set("blocks", nn.ModuleList), lambda m, n: list(m.blocks)),
    "sequential": (_set("blocks", lambda b: nn.Sequential(*b)), lambda m, n: list(m.blocks)),
    "module_dict": (
        _set("blocks", lambda b: nn.ModuleDict({f"block_{i}": x for i, x in enumerate(b)})),
        lambda m, n: list(m.blocks.values()),
    ),
    "attributes": (_attributes, lambda m, n: [getattr(m, f"block{i}") for i in range(n)]),
    "plain_list": (_set("blocks", list), lambda m, n: list(m.blocks)),
    "list_of_dicts": (
        _set("blocks", lambda b: [{"block": x} for x in b]),
        lambda m, n: [entry["block"] for entry in m.blocks],
    ),
    "list_of_module_dicts": (
        _set("blocks", lambda b: nn.ModuleList(nn.ModuleDict({"block": x}) for x in b)),
        lambda m, n: [entry["block"] for entry in m.blocks],
    ),
    "two_lists": (_two_lists, lambda m, n: [*m.first, *m.later]),
    "helper_object": (_set("holder", Holder), lambda m, n: list(m.holder.blocks)),
    "sliced": (_set("blocks", nn.ModuleList), lambda m, n: [m.blocks[0], *m.blocks[1:]]),
    "nested": (_set("core", Wrapper), lambda m, n: list(m.core.layers)),
    "repeated": (_set("block", lambda b: b[0]), lambda m, n: [m.block] * n),
}
"""For each: put the blocks into the model; all its blocks in the order of their calls."""
