"""Which Python code a forward ran outside its leaves, and by what names that code may look at the world.

A captured graph has everything baked in that this code read: attributes, globals, containers. To watch
all that a model could reach would be slow and would find changes that mean nothing, so a capture
notes the code objects that ran, and only what these name is watched.
"""

from __future__ import annotations

import contextlib
import dis
import functools
import gc
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FrameType, ModuleType
from typing import Any

import torch
from torch import nn

from .profilers import told_of_calls, untold

CALL_OF_MODULE = nn.Module.__call__.__code__
# Code of these is not the model's: it reads no state that a model's results may depend on.
_LIBRARIES = tuple(
    os.path.join(folder, "")
    for folder in (
        os.path.dirname(torch.__file__),
        os.path.dirname(os.path.dirname(__file__)),  # fxcache
        sysconfig.get_path("stdlib"),
    )
)
_EVALUATING = ("sympy", "mpmath")
_FOREIGN = ("sympy", "mpmath", "numpy", "torch", "fxcache")
_READ = frozenset({"LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR", "IMPORT_NAME", "IMPORT_FROM", "LOAD_NAME"})
_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})
_STORED = frozenset({"STORE_ATTR", "DELETE_ATTR"})
# Built-in ways to an attribute whose name the code computes.
_DYNAMIC = frozenset({"getattr", "hasattr", "vars", "__dict__", "attrgetter", "dir", "__getattribute__"})
# Built-in ways to set one.
_SETTING = frozenset({"setattr", "delattr", "__setattr__", "__delattr__", "__dict__", "vars"})


@dataclass(frozen=True)
class Names:
    """What one code object names: attributes that it may read, globals that it reads or writes.

    imported: modules that it imports. stored: attributes that it may write. dynamic: it reads attributes by
    names that it computes. optional: constants that may be such names, of attributes that need not exist.
    """

    attributes: frozenset[str]
    globals: frozenset[str]
    imported: frozenset[str]
    stored: frozenset[str]
    dynamic: bool
    optional: frozenset[str]


@functools.lru_cache(maxsize=4096)
def names_of(code: CodeType) -> Names:
    """The names in the byte code of `code`; string constants count as attributes (`getattr(x, "name")`)."""
    attributes: set[str] = set()
    found: set[str] = set()
    imported: set[str] = set()
    stored: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in _READ:
            attributes.add(str(instruction.argval))
        if instruction.opname == "IMPORT_NAME":
            imported.add(str(instruction.argval))
        if instruction.opname in _STORED:
            stored.add(str(instruction.argval))
        if instruction.opname in _GLOBAL or instruction.opname == "STORE_GLOBAL":
            found.add(str(instruction.argval))
    dynamic = bool(_DYNAMIC & (attributes | found))
    constants = frozenset(_strings(code.co_consts))
    if _SETTING & (attributes | found):
        stored |= constants
    return Names(
        frozenset(attributes | constants),
        frozenset(found),
        frozenset(imported),
        frozenset(stored),
        dynamic,
        constants if dynamic else frozenset(),
    )


def _strings(constants: tuple[Any, ...]) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, str) and constant.isidentifier():
            yield constant
        elif isinstance(constant, (tuple, frozenset)):
            yield from _strings(tuple(constant))


def is_foreign(module: str | None) -> bool:
    """Whether a Python module is of a library below the models: torch, its helpers, Python's own."""
    top = (module or "").partition(".")[0]
    return top in _FOREIGN or (top in sys.stdlib_module_names and top != "__main__")


def _module_of(frame: FrameType) -> str:
    """The module that a frame's code is of. An expression that sympy evaluates from text is of sympy."""
    module, caller = str(frame.f_globals.get("__name__", "")), frame.f_back
    if module or caller is None:
        return module
    evaluating = str(caller.f_globals.get("__name__", ""))
    return evaluating if evaluating.partition(".")[0] in _EVALUATING else module


@functools.lru_cache(maxsize=4096)
def _is_models(filename: str, module: str) -> bool:
    if filename.startswith("<frozen") or module.partition(".")[0] in _FOREIGN:
        return False
    if "site-packages" in filename or "dist-packages" in filename:
        return not filename.startswith(_LIBRARIES[:2])
    return not filename.startswith(_LIBRARIES)


class ForbiddenCall(Exception):
    """Code ran that must not."""


@dataclass
class ExecutedCode:
    """Code that ran in one thread while `watching`, but for what ran while `paused`.

    told: called with each code's frame and names, before it first runs. forbidden: code that must not run.
    told_of_modules: called with each module before its first call.
    seen: code object → the globals of its functions, in order. called: the modules that it called.
    """

    told: tuple[Callable[[FrameType, Names], None], ...] = ()
    forbidden: frozenset[CodeType] = frozenset()
    told_of_modules: tuple[Callable[[nn.Module], None], ...] = ()
    seen: dict[CodeType, dict[str, Any]] = field(default_factory=dict)
    called: dict[nn.Module, None] = field(default_factory=dict)
    met: CodeType | None = None
    _active: bool = False
    # By id, for a code object works out its hash from all of its instructions, each time.
    _known: dict[int, tuple[CodeType, dict[str, Any]]] = field(default_factory=dict)
    _collectors: frozenset[CodeType] = frozenset()
    _collecting: FrameType | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Note the code that runs in this thread."""
        callbacks = (getattr(callback, "__code__", None) for callback in gc.callbacks)
        self._collectors = frozenset(code for code in callbacks if code is not None)
        try:
            with told_of_calls(self._note):
                self._active = True
                yield
        finally:
            self._active = False
            self._collecting = None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Do not note what runs within."""
        with untold() if self._active else contextlib.nullcontext():
            yield

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        if self._collecting is not None:  # what runs when memory is collected is not the forward's
            if event == "return" and frame is self._collecting:
                self._collecting = None
            return
        if event != "call":
            return
        code = frame.f_code
        if code is CALL_OF_MODULE:
            self._note_module(frame.f_locals["self"])
            return
        known = self._known.get(id(code))
        if known is not None and known[1] is frame.f_globals:
            return
        if code in self._collectors:
            self._collecting = frame
            return
        if code in self.forbidden:
            self.met = code
            raise ForbiddenCall(code.co_name)
        names = frame.f_globals
        if names.get("__name__"):  # whose nameless code is depends on who evaluates it
            self._known[id(code)] = (code, names)
        if code in self.seen or not _is_models(code.co_filename, _module_of(frame)):
            return
        self.seen[code] = names
        for tell in self.told:
            tell(frame, names_of(code))

    def _note_module(self, module: nn.Module) -> None:
        if module not in self.called:
            self.called[module] = None
            for tell in self.told_of_modules:
                tell(module)

    @functools.cached_property
    def attributes(self) -> frozenset[str]:
        """Names of attributes that the code may read."""
        return frozenset().union(*(names_of(code).attributes for code in self.seen))

    def names(self) -> Iterator[frozenset[str]]:
        """What each code names, attributes and globals together."""
        return (names_of(code).attributes | names_of(code).globals for code in self.seen)

    @functools.cached_property
    def optional(self) -> frozenset[str]:
        """Names of attributes that it asks for whether they exist or not."""
        return frozenset().union(*(names_of(code).optional for code in self.seen))

    @property
    def dynamic(self) -> bool:
        """Whether it may read attributes of any name."""
        return any(names_of(code).dynamic for code in self.seen)

    def globals(self) -> Iterator[tuple[dict[str, Any], str]]:
        """(table, name) of each global that the code names and that exists."""
        done: set[tuple[int, str]] = set()
        for code, table in self.seen.items():
            for name in names_of(code).globals:
                if name in table and (id(table), name) not in done:
                    done.add((id(table), name))
                    yield table, name

    def imported(self) -> Iterator[ModuleType]:
        """Modules that the code imports while it runs."""
        names = frozenset().union(*(names_of(code).imported for code in self.seen))
        return (sys.modules[n] for n in sorted(names) if n in sys.modules)
