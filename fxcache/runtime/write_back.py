"""Write to the caller's tensors what the model writes to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..capture.operator_schemas import storage_of
from ..errors import CaptureError
from ..ir.captured import Capture


def writing_back(run: Callable[..., Any], capture: Capture) -> Callable[..., Any]:
    """`run`, whose further outputs are the new values of some of its inputs."""
    written, count = capture.written, len(capture.inputs)
    if not written:
        return run
    first = written[0][1]

    def running(*values: Any) -> Any:
        _refuse_shared(values[:count])
        results = run(*values)
        given = list(results[:first])
        for place, output in written:
            values[place].copy_(results[output])
            given = [values[place] if g is results[output] else g for g in given]
        return tuple(given)

    def _refuse_shared(inputs: tuple[torch.Tensor, ...]) -> None:
        memory = [storage_of(t) for t in inputs]
        for place, _ in written:
            if memory.count(memory[place]) > 1:
                why = f"it writes to '{capture.inputs[place]}', which shares memory with another input"
                raise CaptureError(type(capture.model).__name__, {capture.how: why})

    running.__wrapped__ = run  # type: ignore[attr-defined]  # for `inspect.unwrap`
    return running
