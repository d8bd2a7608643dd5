"""Other threads do not notice a trace: torch tells the whole process that it traces.

A compiled function of another thread would take itself for part of the trace, and raise. There is no
per-thread form of that flag, so while a trace runs the question is answered for each thread by itself.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from ..torch_private import symbolic_trace


def _answer() -> bool:  # runs with the globals of `torch.fx._symbolic_trace`
    return _is_fx_tracing_flag and _asked_here() and not torch.compiler.is_compiling()  # type: ignore[name-defined] # noqa: F821


@contextlib.contextmanager
def unnoticed() -> Iterator[None]:
    """Within the block, `is_fx_symbolic_tracing` is true in this thread only. One block at a time."""
    question = symbolic_trace.is_fx_symbolic_tracing
    here, usual = threading.get_ident(), question.__code__
    names = vars(symbolic_trace)
    nested = "_asked_here" in names
    if not nested:
        names["_asked_here"] = lambda: threading.get_ident() == here
        question.__code__ = _answer.__code__
    try:
        yield
    finally:
        if not nested:
            question.__code__ = usual
            del names["_asked_here"]
