"""Contexts: each request (and each half of classifier-free guidance) has a state of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch

from .errors import TooManyContextsError
from .flops import StepFlops
from .signature import Call
from .variants import Variant

DEFAULT = "default"
Key = tuple[int, str]  # thread, name: two requests in two threads may use the same names


@dataclass
class Context:
    """State of one context: tensors of the trajectory under way, or what is left of the last one."""

    variant: Variant | None = None
    call_key: tuple[Any, ...] = ()
    state: dict[str, torch.Tensor] = field(default_factory=dict)
    uncached_steps: int = 0
    _measured: tuple[Variant, tuple[Any, ...]] | None = None

    def tensors(self, variant: Variant, call: Call) -> list[torch.Tensor]:
        """State for this call; anything but the same variant at the same sizes starts clean."""
        if self.variant is not variant or self.call_key != call.key:
            self.forget()
            self.state = variant.allocate(call)
            self.variant, self.call_key = variant, call.key
            self._measured = (variant, call.key)
        return list(self.state.values())

    def flops(self) -> StepFlops | None:
        """FLOPs of a step of the last trajectory."""
        return self._measured[0].flops(self._measured[1]) if self._measured else None

    def forget(self) -> None:
        """Drop the state, the record of the trajectory included."""
        self.variant, self.call_key, self.state, self.uncached_steps = None, (), {}, 0

    def finish(self) -> None:
        """End the trajectory: free what is remembered, keep the small record for `stats()`."""
        kept = ("clock_", "log_")
        self.state = {name: t for name, t in self.state.items() if name.startswith(kept)}
        self.call_key = ()


class Contexts:
    """All contexts of one transformed model, and which one is current."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._all: dict[Key, Context] = {}
        self._lock = threading.Lock()
        self._name: ContextVar[str] = ContextVar("fxcache_context", default=DEFAULT)

    def current(self) -> Context:
        """The context of this thread and the enclosing `named` block."""
        key = (threading.get_ident(), self._name.get())
        context = self._all.get(key)
        return context if context is not None else self._add(key)

    def _add(self, key: Key) -> Context:
        with self._lock:
            live = sum(1 for c in self._all.values() if c.call_key)
            if live >= self.limit:
                raise TooManyContextsError(self.limit)
            return self._all.setdefault(key, Context())

    @contextlib.contextmanager
    def named(self, name: str) -> Iterator[None]:
        """Calls within the block use the context `name`."""
        token = self._name.set(name)
        try:
            yield
        finally:
            self._name.reset(token)

    def finish(self) -> None:
        """End the trajectories of this thread's contexts (diffusers calls it after a pipeline)."""
        thread = threading.get_ident()
        for key, context in self._mine(thread):
            if context.state or context.uncached_steps:
                context.finish()
            else:
                self._all.pop(key, None)

    def reset(self) -> None:
        """Forget everything of every context."""
        with self._lock:
            self._all.clear()

    def _mine(self, thread: int) -> list[tuple[Key, Context]]:
        with self._lock:
            return [(key, c) for key, c in self._all.items() if key[0] == thread]

    def items(self) -> list[tuple[str, Context]]:
        """(name, context); a name used by several threads is told apart by a number."""
        with self._lock:
            threads = list(dict.fromkeys(thread for thread, _ in self._all))
            return [
                (name if thread == threads[0] else f"{name}#{threads.index(thread)}", context)
                for (thread, name), context in self._all.items()
            ]
