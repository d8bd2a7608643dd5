"""Tracing: values with a shape and no memory, who traces, and what puts operators into a graph."""

from __future__ import annotations

import torch
from torch.fx import Node

# ruff: isort: off
# What records the operators of a function as a graph, on fake tensors or real ones, and what a leaf has to
# ask and tell the recording.
from torch.fx.experimental.proxy_tensor import (
    ProxyTorchDispatchMode,
    PythonKeyTracer,
    disable_proxy_modes_tracing,
    get_proxy_mode,
    get_proxy_slot,
    make_fx,
    track_tensor_tree,
)

# Values with a shape and no memory, and the mode that makes them.
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

# torch's own containers: no public module opens and closes them.
from torch.utils import _pytree as pytree

# Operators in Python decompose while they are traced.
from torch._dispatch.python import enable_python_dispatcher

# A function in it is replaced for a while, for there is no setting per thread: by
# capture/thread_isolation.py alone.
from torch.fx import _symbolic_trace as symbolic_trace
# ruff: isort: on

FAKE_TENSOR_LOG = "torch._subclasses.fake_tensor"  # where torch says what does not run on fake tensors


def deny_fx_tracing() -> None:
    """Tell whoever asks that nobody traces with torch.fx. The tracer puts it back when it ends."""
    symbolic_trace._is_fx_tracing_flag = False


def storage_id(tensor: torch.Tensor) -> int:
    """A number for the memory of `tensor`, also of one without an address."""
    return tensor.untyped_storage()._cdata


def rename(node: Node, name: str) -> None:
    """Give a node of a graph another name, or one like it that is free. Only `__setattr__` is public."""
    node._rename(name)
