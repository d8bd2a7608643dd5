"""Tracing leaves no trace: undo what running a forward on fake tensors stored in Python state.

Models memoize (rotary tables, masks) on attributes, in dictionaries and plain helper objects that
they hold, in globals and in `functools` caches. A fake tensor left in one would poison the next real call.
"""

from __future__ import annotations

import contextlib
import functools
import gc
from collections.abc import Iterable, Iterator
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import nn

from ..torch_private import FakeTensor
from .executed_code import Names, is_foreign
from .reachable_state import MISSING, Place, unchanged, walk
from .written_by_code import places_written

DEPTH = 8  # a helper object and what it holds; a hook may reach the whole program
CACHE = functools._lru_cache_wrapper
_HOLDING = (CACHE, FunctionType, staticmethod, classmethod, property)  # what a cache may stand in
_PLAIN = (str, bytes, int, float, complex, type(None))
DEPTH_OF_RESULTS = 4  # the cache's own table is one of them
_SYMBOLIC = (FakeTensor, torch.SymInt, torch.SymFloat, torch.SymBool)


class Sandbox:
    """Python state as it was when it was first looked at."""

    def __init__(self, model: nn.Module) -> None:
        self._saved: list[tuple[Place, dict[Any, Any]]] = []
        self._known: set[tuple[int, frozenset[str] | None]] = set()
        self._memory: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._caches: dict[int, Any] = {}
        self._classes: set[type] = set()
        self.calling(model)

    def running(self, frame: FrameType, names: Names) -> None:
        """Code is about to run for the first time."""
        self._save(places_written(frame, names))

    def calling(self, module: nn.Module) -> None:
        """`module`, which the model need not hold, is about to be called for the first time."""
        if (id(module.__dict__), None) in self._known:
            return
        self._look_at(type(module))
        self._save(walk([(type(module).__name__, module)], lambda m: True, depth=DEPTH))
        for tensor in (*module.parameters(), *module.buffers()):
            self._memory.setdefault(id(tensor), (tensor, tensor.data))

    def _save(self, places: Iterable[Place]) -> None:
        for place in places:
            key = (id(place.holder), place.keys)
            if key not in self._known:  # what was saved first is how it was
                self._known.add(key)
                content = place.content()
                self._saved.append((place, content))
                for value in content.values():
                    kind = type(value)
                    if kind in _HOLDING:
                        self._caches |= {id(cache): cache for cache in _caches_of(value)}
                    elif kind not in self._classes:
                        self._look_at(kind)

    def _look_at(self, kind: type) -> None:
        """Note the caches among what a class defines: methods that remember."""
        for base in kind.__mro__:
            if base in self._classes:
                continue
            self._classes.add(base)
            if not is_foreign(base.__module__):
                found = (cache for value in vars(base).values() for cache in _caches_of(value))
                self._caches |= {id(cache): cache for cache in found}

    def restore(self) -> None:
        """Put everything back that is not as it was."""
        for place, content in self._saved:
            _restore(place, content)
        for tensor, data in self._memory.values():
            if not _is_backed_by(tensor, data):  # swapped, cast or moved, maybe to fake memory
                tensor.data = data

    def clear_caches(self) -> None:
        """Clear the `functools` caches that hold something fake; those of others stay as they are.

        Only as a whole: single entries cannot be taken out. What the forward asked for is worked out again.
        """
        # An object refers to its type: quicker than to look at all objects. Those that the user froze
        # (`gc.freeze`) are not found, but for those that code names and those of classes that were met.
        found = {id(c): c for c in gc.get_referrers(CACHE) if type(c) is CACHE}
        for cache in (found | self._caches).values():
            if is_foreign(cache.__module__) or not cache.cache_info().currsize:
                continue
            if _holds_fake(gc.get_referents(cache)):
                cache.cache_clear()


@contextlib.contextmanager
def pristine(model: nn.Module) -> Iterator[Sandbox]:
    """Put back all Python state that the model reaches, and empty function caches of fake tensors."""
    sandbox = Sandbox(model)
    try:
        yield sandbox
    finally:
        sandbox.restore()
        sandbox.clear_caches()


def _caches_of(value: Any) -> Iterator[Any]:
    """A function that remembers, also where it stands in a method, a property or a decorator's closure."""
    kind = type(value)
    if kind in (staticmethod, classmethod):
        value = value.__func__
    elif kind is property:
        value = value.fget
    if type(value) is CACHE:
        yield value
    elif type(value) is FunctionType:
        for cell in value.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty one
                if type(cell.cell_contents) is CACHE:
                    yield cell.cell_contents


def _is_backed_by(tensor: torch.Tensor, data: torch.Tensor) -> bool:
    if type(tensor) is FakeTensor or tensor.device != data.device or tensor.dtype != data.dtype:
        return False
    if tensor.shape != data.shape or tensor.layout != data.layout:
        return False
    if data.layout != torch.strided or not _has_memory(data):
        return True
    return tensor.data_ptr() == data.data_ptr() and tensor.stride() == data.stride()


def _has_memory(tensor: torch.Tensor) -> bool:
    # Subclasses (quantized, distributed tensors) may keep their memory elsewhere.
    return type(tensor) in (torch.Tensor, nn.Parameter, nn.Buffer) and tensor.device.type != "meta"


def _restore(place: Place, content: dict[Any, Any]) -> None:
    now = place.content()
    if unchanged(now, content):
        return
    if isinstance(place.holder, list):
        place.holder[:] = content.values()
        return
    for key in [k for k in now if k not in content]:
        place.set(key, MISSING)
    for key, value in content.items():
        if now.get(key, MISSING) is not value:
            place.set(key, value)
    if isinstance(place.holder, dict) and place.keys is None and list(place.content()) != list(content):
        for key, value in content.items():  # the order counts, too
            del place.holder[key]
            place.holder[key] = value


def _holds_fake(values: Iterable[Any]) -> bool:
    """Whether some value is fake, or a container or plain record of fakes, a few levels down."""
    # Types, not `isinstance`: anything may be in a cache, also what runs code when it is asked for its class.
    seen: dict[int, Any] = {}
    level = list(values)
    for _ in range(DEPTH_OF_RESULTS):
        below: list[Any] = []
        for value in level:
            kind = type(value)
            if issubclass(kind, _SYMBOLIC):
                return True
            if id(value) not in seen and not issubclass(kind, _PLAIN):
                seen[id(value)] = value
                below += _held(value, kind)
        level = below
    return False


def _held(value: Any, kind: type) -> list[Any]:
    if issubclass(kind, dict):
        return [*dict.keys(value), *dict.values(value)]
    if issubclass(kind, (list, tuple, set, frozenset)):
        return list(value)
    if issubclass(kind, (type, nn.Module, torch.Tensor)) or is_foreign(kind.__module__) or callable(value):
        return []
    try:
        return list(object.__getattribute__(value, "__dict__").values())
    except AttributeError:
        return []
