"""Watch what a forward does between its leaves, for what a graph of values cannot hold."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from ..environment.ambient_settings import NUMERIC, SWITCHES, Ambient, autocast, put_back, snapshot
from ..environment.refused_trace import RefusedTrace
from ..torch_private import OpOverload, TorchDispatchMode, composite_kernel, has_decomposition, pytree
from .operator_schemas import storage_of, unordered, written_by
from .untraceable_code import refuse_unseen
from .weight_swaps import BY_HOOKS, WeightWatch

PRODUCTS = ("mm", "mv", "dot", "conv", "linear", "einsum", "attention", "rnn", "lstm", "gru")


RESIZING, COPYING = ("interpolate", "upsample"), ("nearest", "nearest-exact")
# Functions whose Python decomposition is not the kernel's arithmetic.
INEXACT = frozenset(
    (
        *("matmul", "__matmul__", "__rmatmul__", "stft", "istft", "batch_norm"),
        *("gru", "lstm", "rnn_tanh", "rnn_relu", "softshrink", "hardshrink"),
    )
)


class AliasWritten(RefusedTrace):
    """The forward writes to a tensor that a leaf returned as it was given; the trace must keep that."""


class GlueWatch(TorchDispatchMode):
    """Sees every operator that the forward itself runs. Raises `RefusedTrace`.

    ambient: the settings at the forward's entry, known once `watching`. recast: whether the forward
    computes under another autocast than it was called under. memory: the model's, with names. pure: nothing
    may be written at all, by leaves neither.
    """

    supports_higher_order_operators = True

    def __init__(self, model: nn.Module, leaves: Iterable[nn.Module], pure: bool = False) -> None:
        super().__init__()
        self.ambient: Ambient = {}
        self.recast = False
        self.pure = pure
        leaves = tuple(leaves)
        self.weights = WeightWatch(leaves)
        held = [*leaves, model]  # leaves in plain lists are no children of the model
        own = {id(t): (n, t) for m in held for n, t in (*m.named_parameters(), *m.named_buffers())}
        self._own = {key: name for key, (name, _) in own.items()}
        self.memory = {storage_of(t): name for name, t in own.values()}
        self.memory.pop(None, None)
        self._detached: dict[int | None, tuple[bool, StorageWeakRef]] = {}
        self._autocast: Any = ()
        self._paused = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """The body of the forward."""
        self.ambient, self._autocast = snapshot(), autocast()
        try:
            yield
            self._left(snapshot())
        finally:
            put_back(self.ambient)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """A leaf runs: what it does is its own affair."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def detach(self, tensor: torch.Tensor, retry: bool) -> None:
        """From now on a write to `tensor` is refused: in the model others would see it."""
        storage = storage_of(tensor)
        if storage is not None:
            known = self._detached.get(storage)
            again = retry and (known is None or known[0])
            self._detached[storage] = (again, StorageWeakRef(tensor.untyped_storage()))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, OpOverload):
            self._check_writes(func, args, kwargs)
            self._check_settings(func, args, kwargs)
            if func.namespace == "c10d":
                raise RefusedTrace(f"its forward runs {func}, {unordered(func)}")
            if not self.pure and has_decomposition(func):
                with self:
                    return composite_kernel(func, args, kwargs)
        return func(*args, **kwargs)

    def called(self, func: Any, args: Any, kwargs: Any) -> None:
        """A function of torch is called from Python."""
        if self._paused:
            return
        sets_data = getattr(func, "__self__", None) is torch.Tensor.data and func.__name__ == "__set__"
        if sets_data:
            name = self._own.get(id(args[0]))
            what = f"'{name}'" if name else "a tensor"
            raise RefusedTrace(f"its forward exchanges the data of {what}; {BY_HOOKS}")
        self.recast = self.recast or autocast() != self._autocast
        name = getattr(func, "__name__", "")
        if self.pure and (name in INEXACT or (name in RESIZING and _mode(args, kwargs) not in COPYING)):
            raise RefusedTrace(f"its forward uses symbolic amounts, and {name}, which rounds otherwise then")

    def _check_writes(self, func: Any, args: Any, kwargs: Any) -> None:
        for tensor in written_by(func, args, kwargs):
            if self.pure:
                raise RefusedTrace(f"its forward writes in place ({func}) and uses symbolic amounts")
            storage = storage_of(tensor)
            if storage in self.memory:
                raise RefusedTrace(f"its forward writes to '{self.memory[storage]}' in place ({func})")
            if storage in self._detached:
                kind = AliasWritten if self._detached[storage][0] else RefusedTrace
                raise kind(f"its forward writes in place ({func}) to memory that a module's result shares")

    def _check_settings(self, func: Any, args: Any, kwargs: Any) -> None:
        if not self.ambient:
            return
        changed = [n for n, (get, _) in SWITCHES.items() if get() != self.ambient[n]]
        if not changed:
            return
        name = func._schema.name.partition("::")[2]
        product = any(part in name for part in PRODUCTS)
        floating = any(
            isinstance(a, torch.Tensor) and (a.is_floating_point() or a.is_complex())
            for a in pytree.tree_leaves((args, kwargs))
        )
        for setting in changed:
            numeric = setting in NUMERIC and (product or setting == "deterministic")
            attention = setting == "attention kernels" and name == "scaled_dot_product_attention"
            if numeric or attention or (setting == "dtype" and not floating):
                raise RefusedTrace(
                    f"its forward computes {func} under another {TITLES.get(setting, setting)}"
                )

    def _left(self, now: Ambient) -> None:
        changed = [n for n, value in now.items() if value != self.ambient[n]]
        if changed:
            raise RefusedTrace(f"its forward leaves another {TITLES.get(changed[0], changed[0])} behind")


def _mode(args: Any, kwargs: Any) -> Any:
    """The mode of a call of `interpolate`."""
    return kwargs.get("mode", args[3] if len(args) > 3 else "nearest")


TITLES = {
    "dtype": "default dtype",
    "precision": "float32 matmul precision",
    "precisions": "float32 precision",
    "kernels": "choice of cuDNN or oneDNN kernels",
    "attention kernels": "choice of attention kernels",
    "deterministic": "choice of deterministic algorithms",
    "grad": "grad mode",
    "inference": "inference mode",
    "device": "default device",
    "modes": "torch function or dispatch mode",
}


class Calls(TorchFunctionMode):
    """Tells a `GlueWatch` of calls from Python, where autocast and assignments of data can be seen."""

    def __init__(self, glue: GlueWatch) -> None:
        super().__init__()
        self._glue = glue

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        refuse_unseen(func, args)
        self._glue.called(func, args, kwargs)
        return func(*args, **kwargs)
