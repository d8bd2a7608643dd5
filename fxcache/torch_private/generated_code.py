"""What the code that Inductor generates launches, and the bytes and FLOPs of each launch. For benches.

Seen in torch 2.14.1.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.flop_counter import flop_registry

# In the generated code each launch is a line of its own: of Triton, of a library, or of an ATen operator.
LAUNCHED = re.compile(r"^\s*(?:\w+ = )?(?:\w+\.run\(|extern_kernels\.|torch\.ops\.[\w.]+\()", re.MULTILINE)
NO_KERNEL = ("NopKernelSchedulerNode",)  # a buffer that others write parts of


@dataclass(frozen=True)
class Launch:
    """One kernel. library: a product, a convolution or attention, which Inductor leaves to libraries.

    bytes: of its arguments and results, each counted once, however often it is read. flops: of products and
    attention, a multiply-add as two.
    """

    library: bool
    bytes: int
    flops: int


class CodeGenerated(Exception):
    """The code is there; nothing is made of it."""


@contextlib.contextmanager
def _counting(found: list[Launch]) -> Iterator[None]:
    """Within, what Inductor would launch is added to `found`, and compilation ends at `CodeGenerated`."""
    from torch._inductor.graph import GraphLowering

    generate = GraphLowering.codegen

    def codegen(self: Any) -> Any:
        code = generate(self)
        launches = [launch for node in self.scheduler.nodes if (launch := _launch(node)) is not None]
        text = getattr(code[0], "value", code[0])
        written = len(LAUNCHED.findall(text))
        if written != len(launches):
            raise AssertionError(f"{len(launches)} kernels were planned, and {written} are in the code")
        found.extend(launches)
        raise CodeGenerated

    with patch.object(GraphLowering, "codegen", codegen):
        yield


def launches_of(function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Launch]:
    """What `function`, compiled for these arguments, launches in one call. Nothing of it is kept or run."""
    found: list[Launch] = []
    anew = torch._inductor.config.patch(fx_graph_cache=False)
    with _counting(found), anew, torch.no_grad():
        try:
            torch.compile(function, fullgraph=True, dynamic=False)(*args, **kwargs)
        except Exception:  # the compiler wraps ours in errors of its own
            if not found:
                raise
    return found


def _launch(node: Any) -> Launch | None:
    kind = type(node).__name__
    size = node.get_read_write_buffers_sizes()
    if kind in NO_KERNEL or (not size and type(node.node).__name__ == "MultiOutput"):
        return None
    library = kind == "ExternKernelSchedulerNode"
    return Launch(library, size, _flops(node.node) if library else 0)


def _flops(called: Any) -> int:
    """FLOPs by torch's formula for the operator that this call of a library stands for."""
    origin = called.get_origin_node()
    if origin is None:  # an operator of several results
        operator = getattr(called, "op_overload", None)
        origin = next((n for n in called.get_origins() if n.target is operator), None)
    packet = getattr(getattr(origin, "target", None), "overloadpacket", None)
    if origin is None or packet not in flop_registry:
        return 0
    args, kwargs = torch.fx.map_arg((origin.args, dict(origin.kwargs)), lambda n: n.meta["val"])
    return int(flop_registry[packet](*args, **kwargs, out_val=origin.meta["val"]))
