"""Where blocks live: the module lists of a model, and the leaves of a capture."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def find_leaves(
    model: nn.Module, depth: int = 0, opened: frozenset[str] = frozenset()
) -> dict[str, nn.Module]:
    """Modules whose calls stay whole in a capture, by qualified name.

    The items of every module list, `depth` levels below the outermost, and every module that contains
    no such list. Modules named in `opened` are no leaves; their children are.
    """
    return dict(_leaves(model, "", depth, set(), opened))


def _leaves(
    module: nn.Module, prefix: str, depth: int, seen: set[int], opened: frozenset[str]
) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path = prefix + name
        if id(child) in seen:  # the same module under a second name keeps its first
            continue
        seen.add(id(child))
        if isinstance(child, nn.ModuleList):
            for index, item in child.named_children():
                if depth > 0 and _holds_list(item):
                    yield from _leaves(item, f"{path}.{index}.", depth - 1, seen, opened)
                elif id(item) not in seen:
                    seen.add(id(item))
                    yield f"{path}.{index}", item
        elif _holds_list(child) or path in opened:
            yield from _leaves(child, path + ".", depth, seen, opened)
        else:
            yield path, child


def _holds_list(module: nn.Module) -> bool:
    return any(isinstance(m, nn.ModuleList) and len(m) > 0 for m in module.modules())


def list_of(model: nn.Module, name: str) -> str | None:
    """The name of the module list that leaf `name` is an item of, if any."""
    parent, _, index = name.rpartition(".")
    if not index.isdigit():
        return None
    return parent if isinstance(model.get_submodule(parent), nn.ModuleList) else None
