"""Choose the blocks of a model by what it calls again and again, whoever holds that.

Blocks may be where no walk over the model finds them, or in one another: in a class's list, a closure, a
linked list. But they are called, one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from ..environment.executed_code import ExecutedCode
from ..environment.reachable_state import walk
from ..ir.module_lists import Way, is_small
from ..ir.module_tree import module_tree
from ..ir.names import attribute, attribute_names, identifier
from .module_calls import ModuleCall, ModuleCalls


def way_by_calls(model: nn.Module, calls: ModuleCalls) -> Way | None:
    """A way whose blocks are of the classes that are called repeatedly, the heaviest first.

    Calls of one class inside one another, of a list linked by its items, are no chain; what they call may
    be. What else is called, and calls no block, stays whole as well.

    Args:
        model: whose forward made the calls.
        calls: what they were.

    Returns:
        None where no class is called repeatedly.
    """
    made = calls.made
    kinds = _repeated_kinds(made)
    if not kinds:
        return None
    leading = _leading_to(kinds, made)
    blocks: dict[nn.Module, None] = {}
    others: dict[nn.Module, None] = {}
    opened: set[nn.Module] = set()
    pending = made[::-1]
    while pending:
        call = pending.pop()
        if type(call.module) in kinds:
            blocks[call.module] = None
        elif call in leading:
            opened.add(call.module)
            pending.extend(reversed(call.inner))
        else:
            others[call.module] = None
    whole = [*blocks, *(m for m in others if m not in opened and blocks.keys().isdisjoint(m.modules()))]
    inside = {part for leaf in whole for part in leaf.modules() if part is not leaf}
    names = _named(model, [leaf for leaf in whole if leaf not in inside], calls.code)
    kept = frozenset(name for name, leaf in names.items() if leaf in blocks)
    return Way(by_class=True, leaves=tuple(names.items()), blocks=kept)


def _repeated_kinds(made: list[ModuleCall]) -> frozenset[type]:
    """Classes called repeatedly, none of which is called within another or within itself."""
    counts: dict[type, int] = {}
    weights: dict[type, dict[int, int]] = {}
    around: dict[type, set[type]] = {}
    for call, outside in _with_surroundings(made):
        kind = type(call.module)
        counts[kind] = counts.get(kind, 0) + 1
        around.setdefault(kind, set()).update(outside)
        weights.setdefault(kind, {}).update((id(p), p.numel()) for p in call.module.parameters())
    small = {type(c.module) for top in made for c in top.walk() if is_small(c.module)}
    repeated = [k for k, count in counts.items() if count > 1 and k not in around[k] | small]
    chosen: list[type] = []
    for kind in sorted(repeated, key=lambda k: -sum(weights[k].values())):
        if all(kind not in around[other] and other not in around[kind] for other in chosen):
            chosen.append(kind)
    return frozenset(chosen)


def _with_surroundings(made: list[ModuleCall]) -> Iterator[tuple[ModuleCall, frozenset[type]]]:
    """Every call with the classes in whose calls it was made."""
    pending: list[tuple[ModuleCall, frozenset[type]]] = [(call, frozenset()) for call in reversed(made)]
    while pending:
        call, outside = pending.pop()
        yield call, outside
        within = outside | {type(call.module)}
        pending.extend((inner, within) for inner in reversed(call.inner))


def _leading_to(kinds: frozenset[type], made: list[ModuleCall]) -> set[ModuleCall]:
    """The calls that are, or have somewhere within, calls of `kinds`."""
    found: set[ModuleCall] = set()
    for call in reversed([c for top in made for c in top.walk()]):  # what is within before what is around
        if type(call.module) in kinds or any(inner in found for inner in call.inner):
            found.add(call)
    return found


def _named(model: nn.Module, modules: Iterable[nn.Module], code: ExecutedCode) -> dict[str, nn.Module]:
    """Names as generated code can spell them: the model's own, else by where the forward finds each."""
    taken = attribute_names()
    own = {held.module: attribute(held.path, taken) for held in module_tree(model).walk() if held.module}
    modules = list(modules)
    elsewhere = _places(model, code, modules)
    found: dict[str, nn.Module] = {}
    for module in modules:
        name = own.get(module) or identifier(elsewhere.get(module, type(module).__name__))
        unique, count = name, 0
        while unique in found or (name not in own.values() and hasattr(model, unique)):
            count += 1
            unique = f"{name}_{count}"
        found[unique] = module
    return found


def _places(model: nn.Module, code: ExecutedCode, modules: list[nn.Module]) -> dict[nn.Module, str]:
    """How a person would write where the code could reach each of `modules`, as far as it could."""
    roots = [(type(model).__name__, model), *((name, table[name]) for table, name in code.globals())]
    places = walk(roots, lambda module: True, code.attributes, every=code.dynamic)
    wanted = {id(module.__dict__): module for module in modules}
    found: dict[nn.Module, str] = {}
    for place in places:
        if id(place.holder) in wanted:
            found.setdefault(wanted[id(place.holder)], place.path)
    return found
