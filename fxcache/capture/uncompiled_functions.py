"""Run what the user compiled as the Python that it was, in this thread, while a model runs on fake tensors.

Compiled code that meets a fake tensor aborts the process, and the compiler, asked to compile under a
trace, gives the function up for good. Other threads that compile or run compiled code see nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from ..torch_private import count_compiled_frames, eval_frame


class _Here(threading.local):
    depth = 0


_here = _Here()
_lock = threading.Lock()
_inside: list[Any] = []  # what was in the place of `_callback`, once for each context that is open


@contextlib.contextmanager
def uncompiled() -> Iterator[None]:
    """Within the block compiled functions and modules run as plain Python, in this thread alone.

    torch has `torch.compiler.set_stance("force_eager")` for that, but for all threads at once. So the
    function that it goes through, which every compiled function asks by which callback to run, is
    replaced while the block runs; for other threads it answers as before.
    """
    with _lock:
        _inside.append(eval_frame._callback_from_stance)
        if len(_inside) == 1:
            eval_frame._callback_from_stance = _callback
    _here.depth += 1
    # What was compiled with `fullgraph=True` insists on compiled frames unless they are counted outside.
    counting = count_compiled_frames(0)
    try:
        yield
    finally:
        count_compiled_frames(counting)
        _here.depth -= 1
        with _lock:
            original = _inside[0]
            _inside.pop()
            if not _inside:
                eval_frame._callback_from_stance = original


def _callback(callback: Any) -> Any:
    if _here.depth:
        return None  # no callback: frames run as they are
    return _original()(callback)


def _original() -> Any:
    with _lock:
        return _inside[0] if _inside else eval_frame._callback_from_stance
