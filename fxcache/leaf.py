"""Leaf calls: record the call of a whole module as one node of a traced graph.

While a model's forward is traced, each leaf module's call is routed to one small higher-order
operator. Its tracing rule records a single node; its fake rule runs the real module on fake tensors
to learn what comes out. `capture` later turns each such node into a `call_module` on the original.

This file holds every use of torch's private operator machinery that capture needs: there is no public
way to record a module call as one node below the functionalisation layer.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import nn
from torch._C import DispatchKey
from torch._ops import HigherOrderOperator
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import (
    ProxyTorchDispatchMode,
    disable_proxy_modes_tracing,
    get_proxy_mode,
    get_proxy_slot,
    track_tensor_tree,
)

from .effects import EffectWatch
from .errors import BlockMutationError
from .likeness import call_key
from .opaque import fingerprint, is_opaque, tensors_within
from .reads import AnyRead, MemoryReads, RefusedTrace

DYNAMIC = (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool)


class LeafReadsError(Exception):
    """A leaf that is no block reads tensor values: its sizes and numbers may depend on them."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"'{name}' reads tensor values")


@dataclass(frozen=True)
class Slot:
    """Place of the i-th dynamic value (tensor or symbolic number) in a flattened structure."""

    index: int


@dataclass
class Structure:
    """A pytree whose dynamic leaves are cut out; `constants` keeps a `Slot` where each one was."""

    constants: list[Any]
    spec: pytree.TreeSpec

    @functools.cached_property
    def _is_tuple(self) -> bool:
        """Whether this is the dynamic leaves as a tuple, in order: the usual output, filled on every step."""
        places = tuple(c.index if isinstance(c, Slot) else None for c in self.constants)
        return places == tuple(range(len(places))) and self.spec == pytree.tree_structure(places)

    @staticmethod
    def of(tree: Any) -> tuple[Structure, list[Any]]:
        leaves, spec = pytree.tree_flatten(tree, is_leaf=lambda x: isinstance(x, torch.Size))
        dynamic: list[Any] = []
        constants: list[Any] = []
        for leaf in leaves:
            if isinstance(leaf, torch.Size):  # may hold symbolic sizes, which must be operands
                inner, values = Structure.of(tuple(leaf))
                constants.append(inner.shifted(len(dynamic)))
                dynamic.extend(values)
            elif isinstance(leaf, DYNAMIC):
                constants.append(Slot(len(dynamic)))
                dynamic.append(leaf)
            else:
                constants.append(leaf)
        return Structure(constants, spec), dynamic

    def shifted(self, by: int) -> Structure:
        moved = [Slot(c.index + by) if isinstance(c, Slot) else c for c in self.constants]
        return Structure(moved, self.spec)

    def fill(self, dynamic: Any) -> Any:
        """The tree again, with `dynamic[i]` in the i-th slot."""
        if self._is_tuple and len(dynamic) == len(self.constants):
            return tuple(dynamic)

        def one(constant: Any) -> Any:
            if isinstance(constant, Slot):
                return dynamic[constant.index]
            return constant.fill(dynamic) if isinstance(constant, Structure) else constant

        return pytree.tree_unflatten([one(c) for c in self.constants], self.spec)


@dataclass
class LeafRecord:
    """One recorded call: which module, with what argument structure, and what it gave back."""

    name: str
    module: nn.Module
    arguments: Structure
    outputs: Structure | None = None


@dataclass
class Recording:
    """The leaf calls of one trace, in call order.

    watched: leaves to refuse when they read tensor values. A trace on fake tensors needs none: there
    a read fails by itself.
    """

    leaves: Mapping[str, nn.Module]
    watched: frozenset[str] = frozenset()
    effects: EffectWatch = field(default_factory=lambda: EffectWatch(()))
    calls: list[LeafRecord] = field(default_factory=list)
    described: dict[Any, tuple[Structure, tuple[Any, ...]]] = field(default_factory=dict)
    thread: int = field(default_factory=threading.get_ident)

    def call(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self.thread:  # another thread uses the same model meanwhile
            return module._call_impl(*args, **kwargs)
        arguments, operands = Structure.of((args, kwargs))
        for constant in arguments.constants:
            if is_opaque(constant) and any(map(_is_traced, tensors_within(constant))):
                kind = type(constant).__name__
                raise RefusedTrace(f"'{name}' is given a {kind} that the forward makes of its inputs")
        self.effects.called(name, module)
        self.calls.append(LeafRecord(name, module, arguments))
        results = leaf_call(len(self.calls) - 1, *operands)
        self.effects.ran(module)
        outputs = self.calls[-1].outputs
        assert outputs is not None
        return outputs.fill(results)

    def describe(self, index: int, operands: tuple[Any, ...]) -> tuple[Any, ...]:
        """`run`, on fake tensors: repeated blocks given like arguments give back like results."""
        record = self.calls[index]
        key = call_key(record.module, record.arguments, operands)
        if key is None:
            return self.run(index, operands)
        if key not in self.described:
            results = self.run(index, operands)
            assert record.outputs is not None
            self.described[key] = (record.outputs, results)
            return results
        record.outputs, results = self.described[key]
        return tuple(_another(r) for r in results)

    def run(self, index: int, operands: tuple[Any, ...]) -> tuple[Any, ...]:
        """Run the recorded module on `operands` and give back its dynamic outputs, flat."""
        record = self.calls[index]
        versions = [_version(o) for o in operands]
        opaque = [c for c in record.arguments.constants if is_opaque(c)]
        before_call = fingerprint(opaque)
        args, kwargs = record.arguments.fill(operands)
        record.outputs, results = Structure.of(self._result(record, args, kwargs))
        for before, operand in zip(versions, operands, strict=True):
            if _version(operand) != before:
                raise BlockMutationError(record.name, "writes to one of its input tensors")
        if fingerprint(opaque) != before_call:
            raise BlockMutationError(record.name, "writes to an object passed to it (a KV cache?)")
        return tuple(_unaliased(results, operands))

    def _result(self, record: LeafRecord, args: Any, kwargs: Any) -> Any:
        # `_call_impl`, not `__call__`: the latter is what is being recorded.
        forward = record.module._call_impl
        if record.name not in self.watched:
            return forward(*args, **kwargs)
        watch = AnyRead()
        with watch, MemoryReads(watch):
            result = forward(*args, **kwargs)
        if watch.happened:
            raise LeafReadsError(record.name)
        return result


def _is_traced(tensor: torch.Tensor) -> bool:
    """Whether the trace under way computes `tensor`."""
    mode = get_proxy_mode()
    return mode is not None and get_proxy_slot(tensor, mode.tracer, None) is not None


def _another(result: Any) -> Any:
    """A fake tensor like `result`, or the same symbolic number."""
    if not isinstance(result, torch.Tensor):
        return result
    return torch.empty_strided(result.shape, result.stride(), dtype=result.dtype, device=result.device)


def _version(value: Any) -> int:
    tracked = isinstance(value, torch.Tensor) and not value.is_inference()
    return value._version if tracked else 0


def _unaliased(results: list[Any], operands: tuple[Any, ...]) -> Iterator[Any]:
    """An operator may not return one of its operands: a module that does gets a fresh tensor."""
    inputs = {id(o) for o in operands if isinstance(o, torch.Tensor)}
    seen: set[int] = set()
    for result in results:
        if isinstance(result, torch.Tensor):
            yield result.clone() if id(result) in inputs | seen else result
            seen.add(id(result))
        else:
            yield result


class _LeafCall(HigherOrderOperator):
    def __init__(self) -> None:
        super().__init__("fxcache_leaf_call")

    def __call__(self, index: int, *operands: Any) -> tuple[Any, ...]:
        return super().__call__(index, *operands)  # type: ignore[no-any-return]


leaf_call = _LeafCall()
_current: list[Recording] = []  # the stack of traces under way; guarded by `capture`'s lock


@leaf_call.py_impl(DispatchKey.CompositeExplicitAutograd)
def _run(index: int, *operands: Any) -> tuple[Any, ...]:
    return _current[-1].run(index, operands)


@leaf_call.py_impl(DispatchKey.Autograd)
def _below_autograd(index: int, *operands: Any) -> tuple[Any, ...]:
    with torch._C._AutoDispatchBelowAutograd():
        return leaf_call(index, *operands)


@leaf_call.py_impl(FakeTensorMode)
def _run_fake(mode: FakeTensorMode, index: int, *operands: Any) -> tuple[Any, ...]:
    with mode:
        return _current[-1].describe(index, operands)


@leaf_call.py_impl(ProxyTorchDispatchMode)
def _record(mode: ProxyTorchDispatchMode, index: int, *operands: Any) -> tuple[Any, ...]:
    tracer: Any = mode.tracer
    proxies = pytree.tree_map(tracer.unwrap_proxy, operands)
    proxy = tracer.create_proxy("call_function", leaf_call, (index, *proxies), {})
    with disable_proxy_modes_tracing():
        results = leaf_call(index, *operands)
    return track_tensor_tree(results, proxy, constant=None, tracer=tracer)


@leaf_call.py_functionalize_impl
def _functionalise(ctx: Any, index: int, *operands: Any) -> tuple[Any, ...]:
    unwrapped = ctx.unwrap_tensors(operands)
    with ctx.redispatch_to_next():
        results = leaf_call(index, *unwrapped)
    return ctx.wrap_tensors(results)  # type: ignore[no-any-return]


@contextlib.contextmanager
def recording(leaves: Mapping[str, nn.Module], watched: frozenset[str] = frozenset()) -> Iterator[Recording]:
    """Within the block, a call of any module of `leaves` is recorded as one `leaf_call`.

    Only the instance attribute that `nn.Module.compile` uses is set, and put back afterwards: hooks,
    offloading wrappers and compiled blocks stay inside the leaf.
    """
    session = Recording(leaves, watched, EffectWatch(leaves.values()))
    saved = {name: module._compiled_call_impl for name, module in leaves.items()}

    def replacement(name: str, module: nn.Module) -> Any:
        return lambda *args, **kwargs: session.call(name, module, args, kwargs)

    _current.append(session)
    try:
        for name, module in leaves.items():
            module._compiled_call_impl = replacement(name, module)
        yield session
    finally:
        for name, module in leaves.items():
            if saved[name] is None:
                module.__dict__.pop("_compiled_call_impl", None)
            else:
                module._compiled_call_impl = saved[name]
        _current.pop()
