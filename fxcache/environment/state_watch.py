"""Whether the Python state that a captured forward read is still what it was. Asked on every call.

A graph has baked in what the model's Python code read outside its leaves: attributes, options, globals,
hooks, the functions themselves. What that code names is watched, by identity at the speed of C; a plain
value in another object of equal value is the same.
"""

from __future__ import annotations

import collections
import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import CellType, MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as torch_module

from .executed_code import ExecutedCode
from .leaf_hooks import LeafHooks
from .module_mutations import Effect, FinalWrite
from .opaque_objects import PLAIN
from .reachable_state import MISSING, Place, same, walk

# Set by tools on modules; what they do is seen by other means, or is no business of the forward.
_TOOLS = frozenset(
    {"_hf_hook", "_old_forward", "_diffusers_hook", "_compiled_call_impl", "_is_full_backward_hook"}
)
_content = operator.attrgetter("cell_contents")
GLOBAL_HOOKS = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)


class Watch:
    """Watches places, and the hooks of leaves; `changed` says what is not as it was when this was made."""

    def __init__(self, places: Iterable[Place], leaves: Mapping[str, nn.Module]) -> None:
        self._hooks = LeafHooks(leaves)
        owners: list[dict[Any, Any]] = []
        keys: list[Any] = []
        values: list[Any] = []
        self._tables: list[tuple[Place, Any]] = []
        self._whole: list[dict[Any, Any]] = []
        self._lists: list[list[Any]] = []
        self._items: list[Any] = []
        self._others: list[tuple[Place, dict[Any, Any]]] = []
        classes: list[tuple[Any, str]] = []  # their tables and names in them: the same, of another type
        class_values: list[Any] = []
        self._cells: list[CellType] = []
        self._contents: list[Any] = []
        self._slow: list[tuple[Place, dict[Any, Any]]] = []
        self._arrays: list[tuple[str, np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
        self._listed: list[Place] = []
        for place in places:
            content = place.content()
            holder = place.holder
            if isinstance(holder, dict):
                names = content.keys() if place.keys is None else place.keys
                for key in names:
                    owners.append(holder)
                    keys.append(key)
                    values.append(content.get(key, MISSING))
                    self._tables.append((place, key))
                if place.keys is None and not place.omitted:
                    self._whole.append(holder)
            elif isinstance(holder, list):
                self._lists.append(holder)
                self._listed.append(place)
                self._items += holder
            else:
                self._others.append((place, content))
                if isinstance(holder, type) and place.keys is not None:
                    classes += [(vars(holder), key) for key in place.keys]
                    class_values += [content.get(key, MISSING) for key in place.keys]
                elif isinstance(holder, CellType) and content:
                    self._cells.append(holder)
                    self._contents.append(content["content"])
                else:
                    self._slow.append((place, content))
            for key, value in content.items():
                if isinstance(value, np.ndarray):
                    self._arrays.append((place.named(key), value, value.copy()))
        self._owners, self._keys, self._values = tuple(owners), tuple(keys), tuple(values)
        self._classes, self._names = tuple(c for c, _ in classes), tuple(n for _, n in classes)
        self._class_values = tuple(class_values)
        self._lengths = tuple(map(len, (*self._whole, *self._lists)))
        self._sized = (*self._whole, *self._lists)

    def holds(self) -> bool:
        """Whether nothing changed."""
        found = map(dict.get, self._owners, self._keys, itertools.repeat(MISSING))
        in_classes = map(MappingProxyType.get, self._classes, self._names, itertools.repeat(MISSING))
        if (
            self._hooks.holds()
            and all(map(operator.is_, found, self._values))
            and tuple(map(len, self._sized)) == self._lengths
            and all(map(operator.is_, itertools.chain.from_iterable(self._lists), self._items))
            and all(map(operator.is_, in_classes, self._class_values))
            and (not self._cells or self._cells_hold())
            and (not self._slow or all(_unchanged(p, c) for p, c in self._slow))
            and (not self._arrays or all(_same_array(a, b) for _, a, b in self._arrays))
        ):
            return True
        return self.changed() is None

    def _cells_hold(self) -> bool:
        try:
            return all(map(operator.is_, map(_content, self._cells), self._contents))
        except ValueError:  # one was emptied
            return False

    def changed(self) -> str | None:
        """What changed, with its old and new value; None where nothing did."""
        return next(self._changes(), None)

    def _changes(self) -> Iterator[str]:
        yield from self._hooks.changes()
        for (place, key), owner, before in zip(self._tables, self._owners, self._values, strict=True):
            now = owner.get(key, MISSING)
            if not same(before, now):
                yield told(place.named(key), before, now)
        for holder, length in zip(self._sized, self._lengths, strict=True):
            if len(holder) != length:
                yield f"{self._path_of(holder)} has {len(holder)} items, not {length}"
        start = 0
        for place, items in zip(self._listed, self._lists, strict=True):
            before_items = self._items[start : start + len(items)]
            start += len(items)
            for i, (before, now) in enumerate(zip(before_items, items, strict=True)):
                if not same(before, now):
                    yield told(place.named(i), before, now)
        for place, content in self._others:
            now_content = place.content()
            for key in {**content, **now_content}:
                before, now = content.get(key, MISSING), now_content.get(key, MISSING)
                if not same(before, now):
                    yield told(place.named(key), before, now)
        for path, array, copy in self._arrays:
            if not _same_array(array, copy):
                yield f"{path} was written to"

    def _path_of(self, holder: Any) -> str:
        places = [p for p, _ in self._tables] + self._listed
        return next((p.path for p in places if p.holder is holder), "a container")


def told(path: str, before: Any, now: Any) -> str:
    """A change as a line."""
    return f"{path} changed from {_short(before)} to {_short(now)}"


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor {tuple(value.shape)}"
    text = repr(value) if isinstance(value, (*PLAIN, type(MISSING))) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


def _unchanged(place: Place, content: dict[Any, Any]) -> bool:
    now = place.content()
    return now.keys() == content.keys() and all(same(content[k], v) for k, v in now.items())


def _same_array(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def watch_forward(
    model: nn.Module,
    leaves: Mapping[str, nn.Module],
    code: ExecutedCode,
    effects: Iterable[Effect] = (),
    finals: Sequence[FinalWrite] = (),
    further: Iterable[Place] = (),
) -> Watch:
    """A watch over all that the glue of a forward may have read.

    Args:
        model: its root.
        leaves: the modules that run whole; their own state is live, but for what the glue names.
        code: what the glue ran.
        effects: places that are set while the graph runs, which must be as they were.
        finals: what it writes; not watched where it does not read it.
        further: other places that count.
    """
    inside = {id(m) for leaf in leaves.values() for m in leaf.modules()}
    names = code.attributes | {"forward"}
    written = {(id(f.place.holder), f.key) for f in finals if f.key not in names}
    used = list(code.globals())
    roots = [(type(model).__name__, model), *((f"{t.get('__name__')}.{n}", t[n]) for t, n in used)]
    roots += [(module.__name__, module) for module in code.imported()]
    roots += [(type(m).__name__, m) for m in code.called]  # which the model need not hold
    places = list(walk(roots, lambda m: id(m) not in inside, names, every=code.dynamic))
    places += [Place(str(t.get("__name__")), t, frozenset({n}), attributes=True) for t, n in used]
    own = names - _TOOLS - {"training", "forward"}
    for path, leaf in leaves.items():
        for part, module in leaf.named_modules(prefix=path):
            found = own & module.__dict__.keys()
            if module is leaf:
                found |= code.optional - _TOOLS
            if found:
                places.append(Place(part, module.__dict__, frozenset(found), attributes=True))
    places += [Place("torch's global hooks", table) for table in GLOBAL_HOOKS]
    places += further
    # What it sets and reads may not have been there before.
    set_places = [(f.place, f.key) for f in finals if f.key in names and f.place.attributes]
    set_places += [(e.place, e.key) for e in effects]
    places += [
        Place(p.path, p.holder, frozenset({key}), True) for p, key in set_places if isinstance(key, str)
    ]
    return Watch((_narrowed(p, written) for p in _merged(places)), leaves)


def _merged(places: list[Place]) -> Iterator[Place]:
    """Each holder once, with all of its keys."""
    by_holder: dict[int, list[Place]] = collections.defaultdict(list)
    for place in places:
        by_holder[id(place.holder)].append(place)
    for group in by_holder.values():
        first = group[0]
        if any(p.keys is None for p in group):
            yield next(p for p in group if p.keys is None)
        else:
            keys = frozenset().union(*(p.keys for p in group if p.keys is not None))
            yield Place(first.path, first.holder, keys, first.attributes, first.omitted)


def _narrowed(place: Place, written: set[tuple[int, Any]]) -> Place:
    """`place` without what tools hang on modules, and what is written but not read."""
    gone = frozenset(k for h, k in written if h == id(place.holder))
    omitted = _TOOLS | gone
    if place.keys is not None:
        return Place(place.path, place.holder, place.keys - omitted, place.attributes, place.omitted)
    if place.attributes:
        return Place(place.path, place.holder, None, True, place.omitted | omitted)
    return place
