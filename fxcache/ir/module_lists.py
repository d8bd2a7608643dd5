"""Where blocks live: collections of repeated modules of a model, and the leaves of a capture.

Most models keep their blocks in an `nn.ModuleList`. Those that do not are looked through for whatever
else holds repeated modules of one class: an `nn.ModuleDict`, an `nn.Sequential`, a plain list, attributes
`block0`, `block1` and so on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from torch import nn

from .module_tree import Held, module_tree
from .names import attribute, attribute_names

Leaf = tuple[str, nn.Module]
LIGHT = 0.1  # a collection so light, beside the heaviest, is none of blocks
SMALL = "torch.nn.modules."  # torch's own layers, of which an MLP is made
BLOCKS_OF_TORCH = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


@dataclass(frozen=True)
class Way:
    """A way of choosing the leaves of a capture: the modules whose calls stay whole.

    wide: take the items of any heavy collection, not of module lists alone.
    depth: how many levels of collections inside collections to open.
    opened: paths of modules that are no leaves; their children are.
    by_class: a chain may be of any modules of one class that are called repeatedly.
    leaves: the modules, by name, instead of what the model's structure suggests. blocks: those of them that
    a chain is made of. lists: (block, list) by name, where a person named them: all must be in the chain.
    """

    wide: bool = False
    depth: int = 0
    opened: frozenset[str] = frozenset()
    by_class: bool = False
    leaves: tuple[Leaf, ...] = ()
    blocks: frozenset[str] = frozenset()
    lists: tuple[tuple[str, str], ...] = ()


USUAL = Way()


def ways(model: nn.Module) -> tuple[Way, ...]:
    """The ways to try for `model`, the likeliest first.

    By module lists, unless something else holds more of the model than any of these.
    """
    tree = module_tree(model)
    lists = [h for h in tree.walk() if isinstance(h.module, nn.ModuleList) and h.children and h.registered]
    narrow = (Way(), Way(depth=1))
    wide = (Way(wide=True), Way(wide=True, depth=1))
    heaviest_list = max((h.parameters() for h in lists), default=-1)
    heaviest = max((c.parameters() for c in _collections(tree)), default=-1)
    ordered = narrow + wide if heaviest_list >= heaviest else wide + narrow
    return (*ordered, *(replace(way, by_class=True) for way in (ordered[0], ordered[2])))


def find_leaves(
    model: nn.Module, way: Way = USUAL, opened: frozenset[str] = frozenset()
) -> dict[str, nn.Module]:
    """Modules whose calls stay whole in a capture, by name.

    The items of every module list, `way.depth` levels below the outermost, and every module that contains
    no such list; in a wide way of other collections, too. Modules named in `opened` are no leaves; their
    children are. A name is the module's path as generated code can spell it.
    """
    taken, opened = attribute_names(), way.opened | opened
    walk: Iterable[Leaf] = way.leaves
    if not way.leaves:
        walk = _wide(model, way.depth) if way.wide else _narrow(model, "", way.depth, set())
    found: dict[str, nn.Module] = {}
    for name, leaf in _opening(walk, opened, taken):
        found[_unique(name, found)] = leaf
    return found


def find_lists(model: nn.Module) -> dict[str, str]:
    """The collection that a leaf is an item of, by the leaf's name; leaves that are none are not there."""
    taken, tree = attribute_names(), module_tree(model)
    found: dict[str, str] = {}
    for depth in (1, 0):
        for collection in _collections(tree):
            for item in collection.items(depth):
                found[attribute(item.path, taken)] = collection.path
    for held in tree.walk():
        if isinstance(held.module, nn.ModuleList) and held.registered:
            found.update((attribute(item.path, taken), held.path) for item in held.children)
    return found


def is_small(module: nn.Module) -> bool:
    """Whether `module` is one of torch's own layers, which alone make no block."""
    return type(module).__module__.startswith(SMALL) and not isinstance(module, BLOCKS_OF_TORCH)


@dataclass(frozen=True)
class Collection:
    """Repeated modules: the items of a container, or numbered attributes of one module."""

    path: str
    members: tuple[Held, ...]

    def parameters(self) -> int:
        return sum(m.parameters() for m in self.members)

    def items(self, depth: int = 0) -> Iterator[Held]:
        """What of it is called; containers among the members are opened, `Sequential`s by `depth`."""
        for member in self.members:
            yield from _called(member, depth)

    def of_blocks(self) -> bool:
        """Whether two of its items are of one class that makes blocks."""
        for depth in (0, 1):
            modules = (item.module for item in self.items(depth))
            count = Counter(type(m) for m in modules if m is not None and not is_small(m))
            if any(n > 1 for n in count.values()):
                return True
        return False


def _called(held: Held, depth: int) -> Iterator[Held]:
    if held.calls and not (depth and isinstance(held.module, nn.Sequential)):
        yield held
    else:
        for child in held.children:
            yield from _called(child, depth)


def _collections(tree: Held) -> list[Collection]:
    """The heavy collections of repeated modules."""
    chosen = [c for c in _all_collections(tree) if c.of_blocks()]
    weights = [c.parameters() for c in chosen]
    return [c for c, weight in zip(chosen, weights, strict=True) if weight >= LIGHT * max(weights)]


def _all_collections(tree: Held) -> Iterator[Collection]:
    for held in tree.walk():
        if held.holds_items:
            yield Collection(held.path, tuple(held.children))
        else:
            yield from _numbered(held)


def _numbered(held: Held) -> Iterator[Collection]:
    """Attributes of one class whose names differ in numbers alone."""
    groups: dict[tuple[str, type], list[Held]] = {}
    for child in held.children:
        stem = re.sub(r"\d+", "*", child.name)
        if child.calls and stem != child.name:
            groups.setdefault((stem, type(child.module)), []).append(child)
    for (stem, _), members in groups.items():
        if len(members) > 1:
            yield Collection(f"{held.path}.{stem}" if held.path else stem, tuple(members))


def _narrow(module: nn.Module, prefix: str, depth: int, seen: set[int]) -> Iterator[Leaf]:
    for name, child in module.named_children():
        path = prefix + name
        if id(child) in seen:  # the same module under a second name keeps its first
            continue
        seen.add(id(child))
        if isinstance(child, nn.ModuleList):
            for index, item in child.named_children():
                if depth > 0 and _holds_list(item):
                    yield from _narrow(item, f"{path}.{index}.", depth - 1, seen)
                elif id(item) not in seen:
                    seen.add(id(item))
                    yield f"{path}.{index}", item
        elif _holds_list(child):
            yield from _narrow(child, path + ".", depth, seen)
        else:
            yield path, child


def _holds_list(module: nn.Module) -> bool:
    return any(isinstance(m, nn.ModuleList) and len(m) > 0 for m in module.modules())


def _wide(model: nn.Module, depth: int) -> Iterator[Leaf]:
    tree = module_tree(model)
    return leaves_around(tree, {id(item) for c in _collections(tree) for item in c.items(depth)})


def leaves_around(tree: Held, items: set[int]) -> Iterator[Leaf]:
    """The items, by their ids, and every module that holds none of them, as large as can be."""
    return _below(tree, items, _holding(tree, items))


def _holding(tree: Held, items: set[int]) -> set[int]:
    """What has one of `items` somewhere beneath."""
    found: set[int] = set()
    for held in reversed(list(tree.walk())):  # children before what holds them
        if any(id(child) in items or id(child) in found for child in held.children):
            found.add(id(held))
    return found


def _below(held: Held, items: set[int], holding: set[int]) -> Iterator[Leaf]:
    for child in held.children:
        if id(child) not in items and (id(child) in holding or not child.calls):
            yield from _below(child, items, holding)
        elif child.module is not None:
            yield child.path, child.module


def _opening(walk: Iterable[Leaf], opened: frozenset[str], taken: frozenset[str]) -> Iterator[Leaf]:
    """The leaves of `walk` by their names; the children of those that are in `opened` in their place."""
    for path, leaf in walk:
        name = attribute(path, taken)
        if name in opened:
            children = ((f"{path}.{child.path}", child.module) for child in module_tree(leaf).children)
            yield from _opening([(p, m) for p, m in children if m is not None], opened, taken)
        else:
            yield name, leaf


def _unique(name: str, taken: Iterable[str]) -> str:
    while name in taken:
        name += "_"
    return name
